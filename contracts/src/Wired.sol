// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {AddressBook} from "./AddressBook.sol";

/// @dev wei in one nanoLAI. Amounts are nanoLAI everywhere; they become wei only where a token moves.
uint256 constant NANO_LAI = 1e9;

bytes32 constant TOKEN = "LAIToken";
bytes32 constant USERS = "UserRegistry";
bytes32 constant NODES = "NodeRegistry";
bytes32 constant TOKENOMICS = "Tokenomics";

/// @notice A contract that finds its peers and its owner in the address book.
abstract contract Wired {
    AddressBook public immutable book;

    error NotOwner(address caller);
    error LengthMismatch(uint256 expected, uint256 given);

    modifier onlyOwner() {
        if (msg.sender != book.owner()) revert NotOwner(msg.sender);
        _;
    }

    constructor(AddressBook book_) {
        book = book_;
    }

    function _sameLength(uint256 expected, uint256 given) internal pure {
        if (expected != given) revert LengthMismatch(expected, given);
    }
}
