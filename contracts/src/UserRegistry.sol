// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {AddressBook} from "./AddressBook.sol";
import {Entry} from "./Entry.sol";
import {NANO_LAI, TOKEN, TOKENOMICS, Wired} from "./Wired.sol";

/// @notice Users by dense id, and the escrow of their credit: purchased, and faucet credit that can only be spent.
/// Every nanoLAI of credit is backed by one nanoLAI held here. An identity belongs to whoever registers it first.
contract UserRegistry is Wired {
    using SafeERC20 for IERC20;
    using Entry for bytes;
    using Entry for uint256;

    /// @notice Sums over users, in nanoLAI.
    struct Amounts {
        uint128 purchased;
        uint128 faucet;
    }

    uint256 private constant SETTLED = 128;

    /// @notice How many users there are; ids run from 0.
    uint32 public count;
    /// @notice What all users together may claim; this contract's token balance is exactly their sum.
    Amounts public claims;
    mapping(bytes32 identity => uint256) private _idPlusOne;
    /// @notice The address to which a user's money belongs.
    address[1 << 32] public ownerOf;
    /// @dev `uint32 settled ‖ uint64 faucet ‖ uint64 purchased` from bit 0 up, an array so that a slot is found without hashing.
    uint256[1 << 32] private _slots;

    event UsersRegistered(uint256 first, uint256 count);
    event Credited(address indexed payer, bool indexed faucet, uint256 users, uint256 total);
    event UserSkipped(uint256 indexed user, uint256 indexed epoch, uint256 purchased, uint256 faucet);

    error IdentityTaken(bytes32 identity);
    error UnknownIdentity(bytes32 identity);
    error OwnerMissing(bytes32 identity);
    error UnknownUser(uint256 user);
    error NotTokenomics(address caller);

    constructor(AddressBook book_) Wired(book_) {}

    /// @notice Give the next ids to `identities`, in order.
    function register(bytes32[] calldata identities, address[] calldata owners) external returns (uint32 first) {
        _sameLength(identities.length, owners.length);
        first = count;
        uint256 next = first;
        // Fewer than 2³² users can ever be paid for.
        unchecked {
            for (uint256 i = 0; i < identities.length; i++) {
                (bytes32 identity, address owner) = (identities[i], owners[i]);
                if (_idPlusOne[identity] != 0) revert IdentityTaken(identity);
                if (owner == address(0)) revert OwnerMissing(identity);
                ownerOf[next] = owner;
                _idPlusOne[identity] = ++next;
            }
        }
        count = uint32(next);
        emit UsersRegistered(first, identities.length);
    }

    function idOf(bytes32 identity) external view returns (uint32) {
        uint256 idPlusOne = _idPlusOne[identity];
        if (idPlusOne == 0) revert UnknownIdentity(identity);
        return uint32(idPlusOne - 1);
    }

    /// @return purchased in nanoLAI
    /// @return faucet in nanoLAI
    /// @return settled the epoch before which everything is settled: one more than the last epoch that debited this user
    function account(uint32 user) external view returns (uint64 purchased, uint64 faucet, uint32 settled) {
        uint256 slot = _slots[user];
        return (uint64(slot), uint64(slot >> Entry.FAUCET), uint32(slot >> SETTLED));
    }

    function totalClaims() external view returns (uint256) {
        return claims.purchased + claims.faucet;
    }

    /// @notice Move the caller's LAI into escrow as purchased credit of `users`.
    function fund(uint32[] calldata users, uint64[] calldata nanoLai) external {
        claims.purchased += _credit(users, nanoLai, false);
    }

    /// @notice Move the caller's LAI into escrow as faucet credit of `users`.
    function grantFaucet(uint32[] calldata users, uint64[] calldata nanoLai) external {
        claims.faucet += _credit(users, nanoLai, true);
    }

    function _credit(uint32[] calldata users, uint64[] calldata nanoLai, bool faucet) private returns (uint128 total) {
        _sameLength(users.length, nanoLai.length);
        uint256 known = count;
        uint256 shift = faucet ? Entry.FAUCET : 0;
        // Nothing can run over its 64 bits: all credit is backed by tokens, of which there are fewer than 2⁶³ nanoLAI, and a
        // total that is not reverts in the transfer below.
        unchecked {
            for (uint256 i = 0; i < users.length; i++) {
                (uint256 user, uint256 amount) = (users[i], nanoLai[i]);
                if (user >= known) revert UnknownUser(user);
                _slots[user] += amount << shift;
                total += uint128(amount);
            }
        }
        IERC20(book.get(TOKEN)).safeTransferFrom(msg.sender, address(this), total * NANO_LAI);
        emit Credited(msg.sender, faucet, users.length, total);
    }

    /// @notice Debit each entry whose user has the money, skip the others, and pay the sum to the Tokenomics contract.
    /// @return claimed what the entries add up to
    /// @return applied what was debited and paid
    function debit(uint32 epoch, bytes calldata entries) external returns (Amounts memory claimed, Amounts memory applied) {
        if (msg.sender != book.get(TOKENOMICS)) revert NotTokenomics(msg.sender);
        (claimed, applied) = _debit(epoch, entries);
        claims.purchased -= applied.purchased;
        claims.faucet -= applied.faucet;
        IERC20(book.get(TOKEN)).safeTransfer(msg.sender, (uint256(applied.purchased) + applied.faucet) * NANO_LAI);
    }

    function _debit(uint256 epoch, bytes calldata entries) private returns (Amounts memory claimed, Amounts memory applied) {
        uint256 known = count;
        uint256 next = epoch + 1;
        // Sums of whole amount fields (faucet · 2⁶⁴ + purchased) and of their purchased part alone; the faucet part follows.
        uint256 amounts;
        uint256 purchased;
        uint256 skippedAmounts;
        uint256 skippedPurchased;
        // The hot loop: at most 1,000 entries of 128 bits cannot overflow, each balance is compared before it is reduced, and
        // an id is a uint32, so that every index lies inside `_slots`.
        unchecked {
            for (uint256 offset = 0; offset < entries.length; offset += Entry.SIZE) {
                uint256 entry;
                uint256 slot;
                assembly ("memory-safe") {
                    entry := shr(96, calldataload(add(entries.offset, offset)))
                    slot := sload(add(_slots.slot, shr(128, entry)))
                }
                uint256 debits = entry & Entry.AMOUNTS_MASK;
                uint256 debitPurchased = entry & Entry.PURCHASED_MASK;
                amounts += debits;
                purchased += debitPurchased;
                // Once the purchased parts compare, whole fields compare as their faucet parts do.
                if (
                    debitPurchased > slot & Entry.PURCHASED_MASK || debits > slot & Entry.AMOUNTS_MASK
                        || entry.id() >= known
                ) {
                    skippedAmounts += debits;
                    skippedPurchased += debitPurchased;
                    emit UserSkipped(entry.id(), epoch, debitPurchased, debits >> Entry.FAUCET);
                    continue;
                }
                slot -= debits;
                if (slot >> SETTLED < next) slot = (slot & Entry.AMOUNTS_MASK) | (next << SETTLED);
                assembly ("memory-safe") {
                    sstore(add(_slots.slot, shr(128, entry)), slot)
                }
            }
            claimed = Amounts(uint128(purchased), uint128((amounts - purchased) >> Entry.FAUCET));
            uint256 skippedFaucet = (skippedAmounts - skippedPurchased) >> Entry.FAUCET;
            applied = Amounts(uint128(purchased - skippedPurchased), uint128(claimed.faucet - skippedFaucet));
        }
    }
}
