// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {NodeRegistry} from "./NodeRegistry.sol";
import {Split} from "./Split.sol";
import {NANO_LAI, NODES, POOLS, TOKEN, Wired} from "./Wired.sol";

/// @notice What is owed to whom, and its payment.
abstract contract Claims is Wired {
    using SafeERC20 for IERC20;
    using Split for Split.Cuts;

    /// @notice What this contract owes, in nanoLAI; its token balance is exactly the sum.
    struct Owed {
        uint64 treasury;
        uint64 auditors;
        uint64 delegators;
        uint64 operators;
    }

    uint256 private constant DELEGATORS = 64;
    uint256 private constant BURNED = 128;
    uint256 private constant OPEN = 1 << 255;

    Owed public claims;
    Split.Rates public rates;
    /// @dev `uint64 operator ‖ uint64 delegators ‖ uint64 burned` from bit 0 up: what a node has earned and not been paid, and
    /// what was burned of its purchased fees since its last bonus. The highest bit only keeps an open slot from being zero.
    uint256[1 << 32] private _nodes;

    event RatesSet(Split.Rates rates);
    event Endowed(address indexed from, uint64 nanoLai);
    event Claimed(uint32 indexed node, address indexed operator, uint64 nanoLai);
    event DelegatorsPaid(uint32 indexed node, address indexed to, uint64 nanoLai);
    event TreasuryPaid(address indexed to, uint64 nanoLai);
    event AuditorsPaid(address indexed to, uint64 nanoLai);

    error NothingToClaim(uint32 node);
    error AmountNotOwed(uint64 asked, uint64 owed);

    constructor(Split.Rates memory rates_) {
        _setRates(rates_);
    }

    function setRates(Split.Rates calldata rates_) external onlyOwner {
        _setRates(rates_);
    }

    function totalClaims() external view returns (uint256) {
        return uint256(claims.treasury) + claims.auditors + claims.delegators + claims.operators;
    }

    /// @notice What a node has earned and not yet been paid, and what was burned for it since its last bonus, in nanoLAI.
    function earned(uint32 node) public view returns (uint64 operator, uint64 delegators, uint64 burned) {
        uint256 slot = _nodes[node];
        return (uint64(slot), uint64(slot >> DELEGATORS), uint64(slot >> BURNED));
    }

    /// @notice Give the treasury of the caller's LAI.
    function endow(uint64 nanoLai) external {
        claims.treasury += nanoLai;
        emit Endowed(msg.sender, nanoLai);
        IERC20(book.get(TOKEN)).safeTransferFrom(msg.sender, address(this), nanoLai * NANO_LAI);
    }

    /// @notice Pay a node's operator what the node earned. Anyone may call.
    function claim(uint32 node) external {
        (uint64 amount,,) = earned(node);
        if (amount == 0) revert NothingToClaim(node);
        _nodes[node] -= amount;
        claims.operators -= amount;
        address operator = NodeRegistry(book.get(NODES)).operatorOf(node);
        emit Claimed(node, operator, amount);
        _pay(operator, amount);
    }

    /// @notice Pay the staking pools what a node earned for its delegators.
    function claimForDelegators(uint32 node) external onlyContract(POOLS) returns (uint64 amount) {
        (, amount,) = earned(node);
        if (amount == 0) revert NothingToClaim(node);
        _nodes[node] -= uint256(amount) << DELEGATORS;
        claims.delegators -= amount;
        emit DelegatorsPaid(node, msg.sender, amount);
        _transfer(msg.sender, amount);
    }

    function payTreasury(address to, uint64 nanoLai) external onlyOwner {
        uint64 owed = claims.treasury;
        if (nanoLai > owed) revert AmountNotOwed(nanoLai, owed);
        claims.treasury = owed - nanoLai;
        emit TreasuryPaid(to, nanoLai);
        _pay(to, nanoLai);
    }

    function payAuditors(address to, uint64 nanoLai) external onlyOwner {
        uint64 owed = claims.auditors;
        if (nanoLai > owed) revert AmountNotOwed(nanoLai, owed);
        claims.auditors = owed - nanoLai;
        emit AuditorsPaid(to, nanoLai);
        _pay(to, nanoLai);
    }

    /// @dev The rates for a whole chunk or voucher: a treasury at its ceiling gets no further share.
    function _ratesInForce() internal view returns (Split.Rates memory current) {
        current = rates;
        if (claims.treasury >= current.treasuryCeiling) current.treasury = 0;
    }

    /// @dev Splits what a node is paid, by the credit that paid for it, adds the parts to `cuts`, and records the node's.
    function _earn(
        uint256 node,
        uint256 purchased,
        uint256 faucet,
        Split.Rates memory current,
        Split.Cuts memory cuts
    ) internal {
        uint256 gained;
        unchecked {
            if (purchased != 0) {
                (uint256 operator, uint256 delegators, uint256 burned) = cuts.add(purchased, current);
                gained = operator | (delegators << DELEGATORS) | (burned << BURNED);
            }
            if (faucet != 0) {
                (uint256 operator, uint256 delegators,) = cuts.add(faucet, current);
                gained += operator | (delegators << DELEGATORS);
            }
            // All that nodes were ever paid is less than 2⁶³ nanoLAI: no part runs over.
            _nodes[node] += gained;
        }
    }

    /// @dev Gives a node its bonus and forgets what was burned for it.
    function _reward(uint32 node, uint256 operator, uint256 delegators) internal {
        _nodes[node] = (uint128(_nodes[node]) + (operator | (delegators << DELEGATORS))) | OPEN;
    }

    function _open(uint32 node) internal {
        _nodes[node] |= OPEN;
    }

    /// @dev Adds `cuts`, which are backed by LAI that has come in, to what is owed.
    function _record(Split.Cuts memory cuts) internal {
        Owed memory owed = claims;
        claims = Owed(
            owed.treasury + uint64(cuts.treasury),
            owed.auditors + uint64(cuts.auditors),
            owed.delegators + uint64(cuts.delegators),
            owed.operators + uint64(cuts.operators)
        );
    }

    function _pay(address to, uint64 nanoLai) private {
        _checkPayee(to);
        _transfer(to, nanoLai);
    }

    function _transfer(address to, uint64 nanoLai) private {
        IERC20(book.get(TOKEN)).safeTransfer(to, nanoLai * NANO_LAI);
    }

    function _setRates(Split.Rates memory rates_) private {
        Split.check(rates_);
        rates = rates_;
        emit RatesSet(rates_);
    }
}
