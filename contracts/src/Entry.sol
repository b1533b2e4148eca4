// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

/// @notice One line of a settlement: `uint32 id ‖ uint64 faucet ‖ uint64 purchased`, big-endian, 20 bytes, amounts in nanoLAI.
/// The low 128 bits of a user's storage slot have the same layout, so that one subtraction debits both balances.
library Entry {
    uint256 internal constant SIZE = 20;
    uint256 internal constant ID = 128;
    uint256 internal constant FAUCET = 64;
    uint256 internal constant PURCHASED_MASK = type(uint64).max;
    uint256 internal constant FAUCET_MASK = PURCHASED_MASK << FAUCET;
    uint256 internal constant AMOUNTS_MASK = FAUCET_MASK | PURCHASED_MASK;

    error EntriesMalformed(uint256 bytesGiven, uint256 largest);

    /// @dev Reverts unless `entries` is a whole number of entries, at most `largest` of them.
    function check(bytes calldata entries, uint256 largest) internal pure {
        if (entries.length % SIZE != 0 || entries.length > largest * SIZE) {
            revert EntriesMalformed(entries.length, largest * SIZE);
        }
    }

    /// @dev The entry that starts `offset` bytes into `entries`; the caller keeps `offset` inside.
    function read(bytes calldata entries, uint256 offset) internal pure returns (uint256 entry) {
        assembly ("memory-safe") {
            entry := shr(96, calldataload(add(entries.offset, offset)))
        }
    }

    function id(uint256 entry) internal pure returns (uint256) {
        return entry >> ID;
    }

    function purchased(uint256 entry) internal pure returns (uint256) {
        return entry & PURCHASED_MASK;
    }

    function faucet(uint256 entry) internal pure returns (uint256) {
        return (entry & FAUCET_MASK) >> FAUCET;
    }
}
