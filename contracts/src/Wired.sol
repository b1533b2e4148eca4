// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {AddressBook} from "./AddressBook.sol";

/// @dev wei in one nanoLAI. Amounts are nanoLAI everywhere; they become wei only where a token moves.
uint256 constant NANO_LAI = 1e9;

// Contracts
bytes32 constant TOKEN = "LAIToken";
bytes32 constant CLOCK = "EpochClock";
bytes32 constant USERS = "UserRegistry";
bytes32 constant NODES = "NodeRegistry";
bytes32 constant STATUS = "NetworkStatus";
bytes32 constant TOKENOMICS = "Tokenomics";
bytes32 constant SLASHING = "Slashing";

bytes32 constant POOLS = "StakingPools";

// Roles: bind identities to accounts, grant faucet credit
bytes32 constant REGISTRAR = "Registrar";
bytes32 constant FAUCET = "Faucet";

/// @notice A contract that finds its peers, its owner and the oracles in the address book.
abstract contract Wired {
    AddressBook public immutable book;

    error BookMissing(address book);
    error NotOwner(address caller);
    error NotOracle(uint16 nexus, address caller);
    error NotContract(bytes32 name, address caller);
    error NotRole(bytes32 role, address caller);
    error PaysContract(address payee);
    error LengthMismatch(uint256 expected, uint256 given);

    modifier onlyOwner() {
        if (msg.sender != book.owner()) revert NotOwner(msg.sender);
        _;
    }

    modifier onlyOracle(uint16 nexus) {
        if (msg.sender != book.oracleOf(nexus)) revert NotOracle(nexus, msg.sender);
        _;
    }

    modifier onlyContract(bytes32 name) {
        if (msg.sender != book.get(name)) revert NotContract(name, msg.sender);
        _;
    }

    modifier onlyRole(bytes32 role) {
        if (msg.sender != book.holderOf(role)) revert NotRole(role, msg.sender);
        _;
    }

    constructor(AddressBook book_) {
        if (address(book_).code.length == 0) revert BookMissing(address(book_));
        book = book_;
    }

    /// @dev LAI paid to a contract of the network would be lost in it: nothing in its books would stand against it.
    function _checkPayee(address payee) internal view {
        if (book.isContract(payee)) revert PaysContract(payee);
    }

    function _sameLength(uint256 expected, uint256 given) internal pure {
        if (expected != given) revert LengthMismatch(expected, given);
    }
}
