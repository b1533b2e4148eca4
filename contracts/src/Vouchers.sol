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

    /// @dev nanoLAI paid by voucher, by (nexus, epoch, payer, node).
    mapping(uint256 key => uint64) private _collected;

    error AlreadyCollected(uint64 value, uint64 collected);

    constructor() EIP712("Lattice", "1") {}

    /// @notice What has been paid for a voucher's (nexus, epoch, payer, node), in nanoLAI.
    function collected(uint16 nexus, uint32 epoch, uint32 payer, uint32 node) external view returns (uint64) {
        return _collected[_key(nexus, epoch, payer, node)];
    }

    /// @notice What a payer signs.
    function voucherDigest(UsageVoucher calldata voucher) public view returns (bytes32) {
        return _hashTypedDataV4(keccak256(abi.encode(TYPEHASH, voucher)));
    }

    function _signer(UsageVoucher calldata voucher, bytes calldata signature) internal view returns (address) {
        return ECDSA.recover(voucherDigest(voucher), signature);
    }

    /// @dev What of a voucher has not been paid yet.
    function _due(UsageVoucher calldata voucher) internal view returns (uint64) {
        uint64 before = _collected[_key(voucher.nexus, voucher.epoch, voucher.payer, voucher.node)];
        if (voucher.value <= before) revert AlreadyCollected(voucher.value, before);
        return voucher.value - before;
    }

    function _setPaid(UsageVoucher calldata voucher, uint64 paid) internal {
        _collected[_key(voucher.nexus, voucher.epoch, voucher.payer, voucher.node)] += paid;
    }

    function _key(uint16 nexus, uint32 epoch, uint32 payer, uint32 node) private pure returns (uint256) {
        return (uint256(nexus) << 96) | (uint256(epoch) << 64) | (uint256(payer) << 32) | node;
    }
}
