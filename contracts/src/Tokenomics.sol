// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {ERC20Burnable} from "@openzeppelin/contracts/token/ERC20/extensions/ERC20Burnable.sol";
import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {BitMaps} from "@openzeppelin/contracts/utils/structs/BitMaps.sol";
import {AddressBook} from "./AddressBook.sol";
import {Entry} from "./Entry.sol";
import {NodeRegistry} from "./NodeRegistry.sol";
import {Split} from "./Split.sol";
import {UserRegistry} from "./UserRegistry.sol";
import {NANO_LAI, NODES, TOKEN, USERS, Wired} from "./Wired.sol";

/// @notice Settles epochs in chunks: debits users, splits what nodes earned, and pays what was claimed.
contract Tokenomics is Wired {
    using BitMaps for BitMaps.BitMap;
    using Entry for bytes;
    using Entry for uint256;
    using SafeERC20 for IERC20;
    using Split for Split.Cuts;
    using Split for Split.Rates;

    /// @notice What this contract owes, in nanoLAI; its token balance is exactly the sum.
    struct Claims {
        uint64 treasury;
        uint64 auditors;
        uint64 delegators;
        uint64 operators;
    }

    /// @notice Most users, and most nodes, in one chunk.
    uint256 public constant MAX_ENTRIES = 1000;
    uint256 private constant DELEGATORS = 64;

    Split.Rates public rates;
    Claims public claims;
    /// @notice The address that settles for a Nexus.
    mapping(uint16 nexus => address) public oracleOf;
    /// @dev `uint64 operator ‖ uint64 delegators` from bit 0 up: what a node has earned and not yet been paid.
    uint256[1 << 32] private _earned;
    BitMaps.BitMap private _settled;

    event OracleSet(uint16 indexed nexus, address oracle);
    event RatesSet(Split.Rates rates);
    event ChunkSettled(
        uint16 indexed nexus,
        uint32 indexed epoch,
        uint16 indexed chunk,
        uint128 purchased,
        uint128 faucet,
        Split.Cuts cuts
    );
    event NodeSkipped(uint256 indexed node, uint256 purchased, uint256 faucet);
    event Claimed(uint32 indexed node, address indexed operator, uint256 nanoLai);

    error NotOracle(uint16 nexus, address caller);
    error AlreadySettled(uint16 nexus, uint32 epoch, uint16 chunk);
    error ChunkUnbalanced(uint256 debitPurchased, uint256 grossPurchased, uint256 debitFaucet, uint256 grossFaucet);
    error NothingToClaim(uint32 node);

    constructor(AddressBook book_, Split.Rates memory rates_) Wired(book_) {
        _setRates(rates_);
    }

    function setOracle(uint16 nexus, address oracle) external onlyOwner {
        oracleOf[nexus] = oracle;
        emit OracleSet(nexus, oracle);
    }

    function setRates(Split.Rates calldata rates_) external onlyOwner {
        _setRates(rates_);
    }

    function _setRates(Split.Rates memory rates_) private {
        rates_.check();
        rates = rates_;
        emit RatesSet(rates_);
    }

    function totalClaims() external view returns (uint256) {
        return uint256(claims.treasury) + claims.auditors + claims.delegators + claims.operators;
    }

    function isSettled(uint16 nexus, uint32 epoch, uint16 chunk) external view returns (bool) {
        return _settled.get(_key(nexus, epoch, chunk));
    }

    /// @notice Settle one chunk of an epoch, once. `users` and `nodes` are entries (see Entry.sol): debits and grosses.
    /// The debits must add up to the grosses, purchased and faucet parts apart. If debits are skipped, the grosses shrink
    /// in proportion, rounded down; what rounding and unknown nodes leave over is the treasury's.
    function settle(uint16 nexus, uint32 epoch, uint16 chunk, bytes calldata users, bytes calldata nodes) external {
        if (msg.sender != oracleOf[nexus]) revert NotOracle(nexus, msg.sender);
        users.check(MAX_ENTRIES);
        nodes.check(MAX_ENTRIES);
        if (_settled.get(_key(nexus, epoch, chunk))) revert AlreadySettled(nexus, epoch, chunk);
        _settled.set(_key(nexus, epoch, chunk));

        (UserRegistry.Amounts memory claimed, UserRegistry.Amounts memory applied) =
            UserRegistry(book.get(USERS)).debit(epoch, users);
        _checkBalanced(claimed, nodes);
        Split.Cuts memory cuts = _credit(nodes, claimed, applied);
        if (cuts.burned != 0) ERC20Burnable(book.get(TOKEN)).burn(cuts.burned * NANO_LAI);
        emit ChunkSettled(nexus, epoch, chunk, applied.purchased, applied.faucet, cuts);
    }

    /// @notice What a node has earned and not yet been paid, in nanoLAI.
    function earned(uint32 node) public view returns (uint64 operator, uint64 delegators) {
        uint256 slot = _earned[node];
        return (uint64(slot), uint64(slot >> DELEGATORS));
    }

    /// @notice Pay a node's operator what the node earned. Anyone may call.
    function claim(uint32 node) external {
        (uint64 amount,) = earned(node);
        if (amount == 0) revert NothingToClaim(node);
        _earned[node] -= amount;
        claims.operators -= amount;
        address operator = NodeRegistry(book.get(NODES)).operatorOf(node);
        IERC20(book.get(TOKEN)).safeTransfer(operator, amount * NANO_LAI);
        emit Claimed(node, operator, amount);
    }

    function _key(uint16 nexus, uint32 epoch, uint16 chunk) private pure returns (uint256) {
        return (uint256(nexus) << 48) | (uint256(epoch) << 16) | chunk;
    }

    function _checkBalanced(UserRegistry.Amounts memory debits, bytes calldata nodes) private pure {
        uint256 purchased;
        uint256 faucet;
        // Sums of 1,000 uint64 cannot overflow.
        unchecked {
            for (uint256 offset = 0; offset < nodes.length; offset += Entry.SIZE) {
                uint256 entry = nodes.read(offset);
                purchased += entry.purchased();
                faucet += entry.faucet();
            }
        }
        if (purchased != debits.purchased || faucet != debits.faucet) {
            revert ChunkUnbalanced(debits.purchased, purchased, debits.faucet, faucet);
        }
    }

    /// @dev Credits each node of a balanced chunk and records every claim. All sums are at most `applied`, which was paid in
    /// tokens, of which there are fewer than 2⁶³ nanoLAI: 64 bits hold them.
    function _credit(bytes calldata nodes, UserRegistry.Amounts memory claimed, UserRegistry.Amounts memory applied)
        private
        returns (Split.Cuts memory cuts)
    {
        Split.Rates memory current = rates;
        if (claims.treasury >= current.treasuryCeiling) current.treasury = 0;
        uint256 known = NodeRegistry(book.get(NODES)).count();
        unchecked {
            for (uint256 offset = 0; offset < nodes.length; offset += Entry.SIZE) {
                uint256 entry = nodes.read(offset);
                if (entry.id() >= known) {
                    emit NodeSkipped(entry.id(), entry.purchased(), entry.faucet());
                    continue;
                }
                uint256 purchased = _scale(entry.purchased(), applied.purchased, claimed.purchased);
                uint256 faucet = _scale(entry.faucet(), applied.faucet, claimed.faucet);
                _earned[entry.id()] += _split(purchased, current, cuts) + _split(faucet, current, cuts);
            }
            uint256 credited = cuts.burned + cuts.treasury + cuts.auditors + cuts.delegators + cuts.operators;
            cuts.treasury += applied.purchased + applied.faucet - credited;
        }
        _record(cuts);
    }

    /// @dev Adds the parts of `gross` to `cuts` and returns the node's as they stand in `_earned`.
    function _split(uint256 gross, Split.Rates memory current, Split.Cuts memory cuts) private pure returns (uint256) {
        if (gross == 0) return 0;
        (uint256 operator, uint256 delegators) = cuts.add(gross, current);
        return operator | (delegators << DELEGATORS);
    }

    function _record(Split.Cuts memory cuts) private {
        Claims memory owed = claims;
        claims = Claims(
            owed.treasury + uint64(cuts.treasury),
            owed.auditors + uint64(cuts.auditors),
            owed.delegators + uint64(cuts.delegators),
            owed.operators + uint64(cuts.operators)
        );
    }

    function _scale(uint256 gross, uint256 applied, uint256 claimed) private pure returns (uint256) {
        return applied == claimed ? gross : gross * applied / claimed;
    }
}
