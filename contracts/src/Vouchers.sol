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

    /// @notice What was presented for a (nexus, epoch, payer, node), in nanoLAI, in which epoch, and what of it is paid.
    struct Presented {
        uint64 value;
        uint64 paid;
        uint32 since;
    }

    mapping(uint256 key => Presented) private _presented;

    error AlreadyPresented(uint64 value, uint64 presented);

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

    /// @dev Records a voucher that is presented in epoch `since`, and returns how much more it promises than the one before.
    function _present(UsageVoucher calldata voucher, uint32 since) internal returns (uint64 more) {
        Presented storage it = _presented[_key(voucher.nexus, voucher.epoch, voucher.payer, voucher.node)];
        if (voucher.value <= it.value) revert AlreadyPresented(voucher.value, it.value);
        more = voucher.value - it.value;
        (it.value, it.since) = (voucher.value, since);
    }

    function _addPaid(uint16 nexus, uint32 epoch, uint32 payer, uint32 node, uint64 paid) internal {
        _presented[_key(nexus, epoch, payer, node)].paid += paid;
    }

    function _key(uint16 nexus, uint32 epoch, uint32 payer, uint32 node) private pure returns (uint256) {
        return (uint256(nexus) << 96) | (uint256(epoch) << 64) | (uint256(payer) << 32) | node;
    }
}
