// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {AddressBook} from "./AddressBook.sol";
import {NANO_LAI, TOKEN, Wired} from "./Wired.sol";

/// @notice Nodes by dense id: who operates them, what they run, and the bonds that stand behind them.
contract NodeRegistry is Wired {
    using SafeERC20 for IERC20;

    struct Node {
        address operator;
        uint8 kind;
        uint16 cluster;
        uint64 bond;
        bytes32 modelHash;
    }

    /// @notice How many nodes there are; ids run from 0.
    uint32 public count;
    /// @notice All bonds together, in nanoLAI; this contract's token balance is exactly this.
    uint64 public totalBonded;
    Node[1 << 32] public nodes;

    event NodesRegistered(uint256 first, uint256 count);
    event Bonded(address indexed payer, uint256 nodes, uint256 total);

    error OperatorMissing(uint256 node);
    error UnknownNode(uint256 node);

    constructor(AddressBook book_) Wired(book_) {}

    /// @notice Give the next ids to the nodes of `operators`, in order.
    function register(
        address[] calldata operators,
        uint8[] calldata kinds,
        bytes32[] calldata modelHashes,
        uint16[] calldata clusters
    ) external returns (uint32 first) {
        _sameLength(operators.length, kinds.length);
        _sameLength(operators.length, modelHashes.length);
        _sameLength(operators.length, clusters.length);
        first = count;
        for (uint256 i = 0; i < operators.length; i++) {
            if (operators[i] == address(0)) revert OperatorMissing(first + i);
            nodes[first + i] = Node(operators[i], kinds[i], clusters[i], 0, modelHashes[i]);
        }
        count = first + uint32(operators.length);
        emit NodesRegistered(first, operators.length);
    }

    function operatorOf(uint32 node) external view returns (address) {
        if (node >= count) revert UnknownNode(node);
        return nodes[node].operator;
    }

    /// @notice Add the caller's LAI to the bonds of `ids`.
    function bond(uint32[] calldata ids, uint64[] calldata nanoLai) external {
        _sameLength(ids.length, nanoLai.length);
        uint64 total;
        uint256 known = count;
        for (uint256 i = 0; i < ids.length; i++) {
            (uint32 id, uint64 amount) = (ids[i], nanoLai[i]);
            if (id >= known) revert UnknownNode(id);
            nodes[id].bond += amount;
            total += amount;
        }
        totalBonded += total;
        IERC20(book.get(TOKEN)).safeTransferFrom(msg.sender, address(this), total * NANO_LAI);
        emit Bonded(msg.sender, ids.length, total);
    }
}
