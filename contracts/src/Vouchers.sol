// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";

/// @notice A payer's promise for what a node delivered in an epoch, good where no batch paid for it.
abstract contract Vouchers is EIP712 {
    /// @notice `value` nanoLAI for all that `payer` had from `node` in `epoch`; a later one with more replaces it.
    struct UsageVoucher {
        uint16 nexus;
        uint32 epoch;
        uint32 payer;
        uint32 node;
        uint64 value;
        uint64 tokens;
        bytes32 receiptsRoot;
    }

    bytes32 private constant TYPEHASH = keccak256(
        "UsageVoucher(uint16 nexus,uint32 epoch,uint32 payer,uint32 node,uint64 value,uint64 tokens,bytes32 receiptsRoot)"
    );

    /// @notice What was presented for a (nexus, epoch, payer, node), in nanoLAI: `ripe` of `value` has waited, up to `first` waits
    /// since epoch `since` and the rest since `later`. A larger voucher so never holds up the one before it for long.
    struct Presented {
        uint64 value;
        uint64 ripe;
        uint64 first;
        uint64 paid;
        uint32 since;
        uint32 later;
    }

    mapping(uint256 key => Presented) private _presented;

    error AlreadyPresented(uint64 value, uint64 presented);
    error NothingPresented(uint32 epoch, uint32 payer, uint32 node);
    error VoucherWaits(uint32 since);

    constructor() EIP712("Lattice", "1") {}

    function presented(uint16 nexus, uint32 epoch, uint32 payer, uint32 node) public view returns (Presented memory) {
        return _presented[_key(nexus, epoch, payer, node)];
    }

    /// @notice What a payer signs.
    function voucherDigest(UsageVoucher calldata voucher) public view returns (bytes32) {
        return _hashTypedDataV4(keccak256(abi.encode(TYPEHASH, voucher)));
    }

    function _signer(UsageVoucher calldata voucher, bytes calldata signature) internal view returns (address) {
        return ECDSA.recover(voucherDigest(voucher), signature);
    }

    /// @dev Whether what was presented in an epoch has waited.
    function _lapsed(uint32 epoch) internal view virtual returns (bool);

    /// @dev Records a voucher that is presented in epoch `now_`, and returns how much more it promises than the one before.
    function _present(UsageVoucher calldata voucher, uint32 now_) internal returns (uint64 more) {
        Presented storage it = _ripen(_key(voucher.nexus, voucher.epoch, voucher.payer, voucher.node));
        if (voucher.value <= it.value) revert AlreadyPresented(voucher.value, it.value);
        more = voucher.value - it.value;
        if (it.ripe == it.value) (it.first, it.since) = (voucher.value, now_);
        else it.later = now_;
        it.value = voucher.value;
    }

    /// @dev What can be paid now.
    function _due(uint16 nexus, uint32 epoch, uint32 payer, uint32 node) internal returns (uint64) {
        Presented storage it = _ripen(_key(nexus, epoch, payer, node));
        if (it.paid == it.value) revert NothingPresented(epoch, payer, node);
        if (it.paid == it.ripe) revert VoucherWaits(it.since);
        return it.ripe - it.paid;
    }

    function _addPaid(uint16 nexus, uint32 epoch, uint32 payer, uint32 node, uint64 paid) internal {
        _presented[_key(nexus, epoch, payer, node)].paid += paid;
    }

    function _ripen(uint256 key) private returns (Presented storage it) {
        it = _presented[key];
        for (uint256 i = 0; i < 2 && it.first > it.ripe && _lapsed(it.since); i++) {
            it.ripe = it.first;
            (it.first, it.since) = (it.value, it.later);
        }
    }

    function _key(uint16 nexus, uint32 epoch, uint32 payer, uint32 node) private pure returns (uint256) {
        return (uint256(nexus) << 96) | (uint256(epoch) << 64) | (uint256(payer) << 32) | node;
    }
}
