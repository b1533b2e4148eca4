// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Ownable} from "@openzeppelin/contracts/access/Ownable.sol";

/// @notice Where each contract of the network lives, and the one owner of them all. A contract is replaced by naming another.
contract AddressBook is Ownable {
    mapping(bytes32 name => address) private _entries;

    event AddressSet(bytes32 indexed name, address entry);

    error UnknownName(bytes32 name);

    constructor(address owner) Ownable(owner) {}

    function set(bytes32 name, address entry) external onlyOwner {
        _entries[name] = entry;
        emit AddressSet(name, entry);
    }

    function get(bytes32 name) external view returns (address entry) {
        entry = _entries[name];
        if (entry == address(0)) revert UnknownName(name);
    }
}
