// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Ownable} from "@openzeppelin/contracts/access/Ownable.sol";

/// @notice Who is who: where each contract of the network lives, who has a role, which oracle speaks for a Nexus, and the one
/// owner of them all. A contract is replaced by naming another.
contract AddressBook is Ownable {
    /// @notice The address that settles and reports for a Nexus; zero for a Nexus that there is not.
    mapping(uint16 nexus => address) public oracleOf;
    /// @notice Who holds a role; zero for nobody.
    mapping(bytes32 role => address) public holderOf;
    /// @notice Whether an address is, or was, a contract of the network.
    mapping(address => bool) public isContract;
    mapping(bytes32 name => address) private _contracts;

    event ContractSet(bytes32 indexed name, address entry);
    event RoleSet(bytes32 indexed role, address holder);
    event OracleSet(uint16 indexed nexus, address oracle);

    error UnknownName(bytes32 name);
    error NotAContract(bytes32 name, address entry);

    constructor(address owner) Ownable(owner) {
        isContract[address(this)] = true;
    }

    function set(bytes32 name, address entry) external onlyOwner {
        if (entry.code.length == 0) revert NotAContract(name, entry);
        _contracts[name] = entry;
        isContract[entry] = true;
        emit ContractSet(name, entry);
    }

    function setRole(bytes32 role, address holder) external onlyOwner {
        holderOf[role] = holder;
        emit RoleSet(role, holder);
    }

    function setOracle(uint16 nexus, address oracle) external onlyOwner {
        oracleOf[nexus] = oracle;
        emit OracleSet(nexus, oracle);
    }

    function get(bytes32 name) external view returns (address entry) {
        entry = _contracts[name];
        if (entry == address(0)) revert UnknownName(name);
    }
}
