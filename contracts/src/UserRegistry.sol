// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {AddressBook} from "./AddressBook.sol";
import {Entry} from "./Entry.sol";
import {EpochClock} from "./EpochClock.sol";
import {CLOCK, NANO_LAI, REGISTRAR, TOKEN, TOKENOMICS, Wired} from "./Wired.sol";

/// @notice Accounts by dense id, of people, organisations and agents alike, and the escrow of their credit: purchased, and
/// faucet credit that can only be spent. Every nanoLAI of credit is backed by one nanoLAI held here.
contract UserRegistry is Wired {
    using SafeERC20 for IERC20;
    using Entry for bytes;
    using Entry for uint256;

    /// @notice Sums over users, in nanoLAI.
    struct Amounts {
        uint128 purchased;
        uint128 faucet;
    }

    /// @notice A key that may spend for a user: at most `cap` nanoLAI in all, at one Nexus, at nodes of the kinds whose bits are
    /// set in `kinds`, in epochs that end by `expiry`.
    struct SessionKey {
        uint64 cap;
        uint64 used;
        uint16 nexus;
        uint8 kinds;
        uint40 expiry;
    }

    /// @notice What an owner has asked to have back, in nanoLAI, and when.
    struct Withdrawal {
        uint64 amount;
        uint32 epoch;
    }

    // Above its two balances (see Entry.sol) a user's slot holds `uint32 settled ‖ uint16 nexus ‖ uint64 recent`.
    uint256 private constant SETTLED = 128;
    uint256 private constant NEXUS = 160;
    uint256 private constant RECENT = 176;
    uint256 private constant RECENT_MASK = type(uint64).max;
    /// @dev How many epochs `recent` remembers.
    uint256 private constant REMEMBERED = 64;

    /// @notice How many users there are; ids run from 0.
    uint32 public count;
    /// @notice What all users together may claim; this contract's token balance is exactly their sum.
    Amounts public claims;
    mapping(bytes32 identity => uint256) private _idPlusOne;
    /// @notice The address to which a user's money belongs.
    address[1 << 32] public ownerOf;
    /// @dev An array, so that a slot is found without hashing. `settled` is one more than the last epoch in which a batch debited
    /// the user; bit k of `recent` tells whether one did in epoch settled − 1 − k. `nexus` is the only one whose batches may.
    uint256[1 << 32] private _slots;
    mapping(uint32 user => Withdrawal) public withdrawalOf;
    mapping(uint32 user => mapping(address key => SessionKey)) public sessionKeyOf;

    event UserRegistered(uint256 indexed user, bytes32 indexed identity, address indexed owner, uint16 nexus);
    event Funded(address indexed payer, uint32[] users, uint64[] nanoLai);
    event FaucetGranted(uint32[] users, uint64[] nanoLai);
    event UserSkipped(uint256 indexed user, uint256 indexed epoch, uint256 purchased, uint256 faucet);
    event VoucherDebited(uint32 indexed user, uint64 purchased, uint64 faucet);
    event WithdrawalRequested(uint32 indexed user, uint64 nanoLai, uint32 epoch);
    event Withdrawn(uint32 indexed user, address indexed owner, uint64 nanoLai);
    event SessionKeySet(uint32 indexed user, address indexed key, SessionKey session);

    error IdentityTaken(bytes32 identity);
    error IdentityZero(uint256 row);
    error UnknownIdentity(bytes32 identity);
    error OwnerMissing(bytes32 identity);
    error UnknownUser(uint256 user);
    error NotUsersOwner(uint32 user, address caller);
    error AmountZero(uint256 user);
    error CreditTooSmall(uint32 user, uint64 purchased, uint64 asked);
    error NothingToWithdraw(uint32 user);
    error EscrowLocked(uint32 user, uint32 epoch);
    error SessionKeyZero(uint32 user);
    error SessionKeyNarrowed(uint32 user, address key);
    error NotUsersKey(uint32 user, address signer);
    error SessionKeyExpired(address key, uint40 expiry, uint256 endOfEpoch);
    error SessionKeyOutOfScope(address key, uint16 nexus, uint8 kind);
    error SessionKeyExhausted(address key, uint64 cap, uint64 used, uint64 asked);
    error SettledByBatch(uint32 user, uint32 epoch);
    error OtherNexus(uint32 user, uint16 nexus);

    modifier onlyUsersOwner(uint32 user) {
        if (msg.sender != ownerOf[user]) revert NotUsersOwner(user, msg.sender);
        _;
    }

    constructor(AddressBook book_) Wired(book_) {}

    /// @notice Give the next ids to `identities`, in order, as users of `nexus`.
    function register(uint16 nexus, bytes32[] calldata identities, address[] calldata owners)
        external
        onlyRole(REGISTRAR)
        returns (uint32 first)
    {
        _sameLength(identities.length, owners.length);
        first = count;
        for (uint256 i = 0; i < identities.length; i++) {
            if (identities[i] == 0) revert IdentityZero(i);
            _register(first + i, identities[i], owners[i], nexus);
        }
        count = first + uint32(identities.length);
    }

    /// @notice Become a user of `nexus` by one's address alone, which is then the identity; nobody has to agree.
    function join(uint16 nexus) external returns (uint32 user) {
        user = count;
        _register(user, bytes32(uint256(uint160(msg.sender))), msg.sender, nexus);
        count = user + 1;
    }

    function idOf(bytes32 identity) external view returns (uint32) {
        uint256 idPlusOne = _idPlusOne[identity];
        if (idPlusOne == 0) revert UnknownIdentity(identity);
        return uint32(idPlusOne - 1);
    }

    /// @return purchased in nanoLAI
    /// @return faucet in nanoLAI
    /// @return nexus whose batches may debit the user
    function account(uint32 user) external view returns (uint64 purchased, uint64 faucet, uint16 nexus) {
        uint256 slot = _slots[user];
        return (uint64(slot), uint64(slot >> Entry.FAUCET), uint16(slot >> NEXUS));
    }

    /// @notice Whether a batch has debited the user for `epoch`, of the last 64 epochs in which one could.
    function isSettled(uint32 user, uint32 epoch) public view returns (bool) {
        uint256 slot = _slots[user];
        uint256 settled = uint32(slot >> SETTLED);
        return epoch < settled && settled - 1 - epoch < REMEMBERED && (slot >> (RECENT + settled - 1 - epoch)) & 1 == 1;
    }

    function totalClaims() external view returns (uint256) {
        return uint256(claims.purchased) + claims.faucet;
    }

    // Credit

    /// @notice Move the caller's LAI into escrow as purchased credit of `users`.
    function fund(uint32[] calldata users, uint64[] calldata nanoLai) external {
        uint128 total = _credit(users, nanoLai, 0);
        claims.purchased += total;
        emit Funded(msg.sender, users, nanoLai);
        IERC20(book.get(TOKEN)).safeTransferFrom(msg.sender, address(this), total * NANO_LAI);
    }

    /// @notice Credit `users` with what can only be spent; Tokenomics then pays the total it is told.
    function grantFaucet(uint32[] calldata users, uint64[] calldata nanoLai)
        external
        onlyContract(TOKENOMICS)
        returns (uint128 total)
    {
        total = _credit(users, nanoLai, Entry.FAUCET);
        claims.faucet += total;
        emit FaucetGranted(users, nanoLai);
    }

    /// @notice Ask to have `nanoLai` of purchased credit back, or with zero no longer; a new request replaces the old one.
    /// The money stays where it is, and pays what batches and vouchers still charge, until the epoch of the request is closed.
    function requestWithdrawal(uint32 user, uint64 nanoLai) external onlyUsersOwner(user) {
        uint64 purchased = uint64(_slots[user]);
        if (nanoLai > purchased) revert CreditTooSmall(user, purchased, nanoLai);
        uint32 epoch = EpochClock(book.get(CLOCK)).current();
        withdrawalOf[user] = Withdrawal(nanoLai, epoch);
        emit WithdrawalRequested(user, nanoLai, epoch);
    }

    /// @notice Pay the user's owner what was asked for, or what is left of it.
    function withdraw(uint32 user) external onlyUsersOwner(user) {
        Withdrawal memory asked = withdrawalOf[user];
        uint256 slot = _slots[user];
        uint64 amount = uint64(slot) < asked.amount ? uint64(slot) : asked.amount;
        if (amount == 0) revert NothingToWithdraw(user);
        if (!EpochClock(book.get(CLOCK)).closed(asked.epoch)) revert EscrowLocked(user, asked.epoch);
        delete withdrawalOf[user];
        _slots[user] = slot - amount;
        claims.purchased -= amount;
        _checkPayee(msg.sender);
        emit Withdrawn(user, msg.sender, amount);
        IERC20(book.get(TOKEN)).safeTransfer(msg.sender, amount * NANO_LAI);
    }

    // Session keys

    /// @notice Let `key` spend for the user, or more than before. Nothing is taken from a key here: a node counts on what it
    /// was shown until the epoch ends.
    function setSessionKey(uint32 user, address key, uint64 cap, uint16 nexus, uint8 kinds, uint40 expiry)
        external
        onlyUsersOwner(user)
    {
        if (key == address(0)) revert SessionKeyZero(user);
        SessionKey memory old = sessionKeyOf[user][key];
        bool narrowed = cap < old.cap || expiry < old.expiry || kinds & old.kinds != old.kinds || nexus != old.nexus;
        if (old.expiry != 0 && narrowed) revert SessionKeyNarrowed(user, key);
        _setSessionKey(user, key, SessionKey(cap, old.used, nexus, kinds, expiry));
    }

    /// @notice Let `key` spend no more from the next epoch on; what it has signed for this one and those before stays good.
    function revokeSessionKey(uint32 user, address key) external onlyUsersOwner(user) {
        EpochClock clock = EpochClock(book.get(CLOCK));
        uint256 end = clock.endOf(clock.current());
        SessionKey memory session = sessionKeyOf[user][key];
        if (session.expiry > end) session.expiry = uint40(end);
        _setSessionKey(user, key, session);
    }

    // Debits

    /// @notice Debit each entry whose user has the money, belongs to `nexus` and was not yet debited for `epoch`, skip the
    /// others, and pay the sum to Tokenomics.
    /// @return claimed what the entries add up to
    /// @return applied what was debited and paid
    function debit(uint16 nexus, uint32 epoch, bytes calldata entries)
        external
        onlyContract(TOKENOMICS)
        returns (Amounts memory claimed, Amounts memory applied)
    {
        (claimed, applied) = _debit(nexus, epoch, entries);
        claims.purchased -= applied.purchased;
        claims.faucet -= applied.faucet;
        IERC20(book.get(TOKEN)).safeTransfer(msg.sender, (uint256(applied.purchased) + applied.faucet) * NANO_LAI);
    }

    /// @notice Check that `signer` may promise `amount` more for a user to nodes of a kind, in an epoch that no batch has settled.
    function authorise(uint16 nexus, uint32 epoch, uint32 user, uint8 kind, uint64 amount, address signer)
        external
        onlyContract(TOKENOMICS)
    {
        if (user >= count) revert UnknownUser(user);
        if (uint16(_slots[user] >> NEXUS) != nexus) revert OtherNexus(user, nexus);
        if (isSettled(user, epoch)) revert SettledByBatch(user, epoch);
        if (signer != ownerOf[user]) _useSessionKey(user, signer, nexus, epoch, kind, amount);
    }

    /// @notice Debit a user for a voucher: faucet credit first, at most what there is; and pay that to Tokenomics.
    function debitVoucher(uint32 user, uint64 asked)
        external
        onlyContract(TOKENOMICS)
        returns (uint64 purchased, uint64 faucet)
    {
        uint256 slot = _slots[user];
        faucet = uint64(slot >> Entry.FAUCET);
        if (asked < faucet) faucet = asked;
        purchased = uint64(slot);
        if (asked - faucet < purchased) purchased = asked - faucet;
        _slots[user] = slot - purchased - (uint256(faucet) << Entry.FAUCET);
        claims.purchased -= purchased;
        claims.faucet -= faucet;
        emit VoucherDebited(user, purchased, faucet);
        IERC20(book.get(TOKEN)).safeTransfer(msg.sender, (uint256(purchased) + faucet) * NANO_LAI);
    }

    function _register(uint256 user, bytes32 identity, address owner, uint16 nexus) private {
        if (_idPlusOne[identity] != 0) revert IdentityTaken(identity);
        if (owner == address(0)) revert OwnerMissing(identity);
        _idPlusOne[identity] = user + 1;
        ownerOf[user] = owner;
        if (nexus != 0) _slots[user] = uint256(nexus) << NEXUS;
        emit UserRegistered(user, identity, owner, nexus);
    }

    function _credit(uint32[] calldata users, uint64[] calldata nanoLai, uint256 shift) private returns (uint128 total) {
        _sameLength(users.length, nanoLai.length);
        uint256 known = count;
        // Nothing can run over its 64 bits: all credit is backed by tokens, of which there are fewer than 2⁶³ nanoLAI, and a
        // total that is not reverts in the transfer.
        unchecked {
            for (uint256 i = 0; i < users.length; i++) {
                (uint256 user, uint256 amount) = (users[i], nanoLai[i]);
                if (user >= known) revert UnknownUser(user);
                if (amount == 0) revert AmountZero(user);
                _slots[user] += amount << shift;
                total += uint128(amount);
            }
        }
    }

    function _setSessionKey(uint32 user, address key, SessionKey memory session) private {
        sessionKeyOf[user][key] = session;
        emit SessionKeySet(user, key, session);
    }

    function _useSessionKey(uint32 user, address key, uint16 nexus, uint32 epoch, uint8 kind, uint64 amount) private {
        SessionKey memory session = sessionKeyOf[user][key];
        if (session.expiry == 0) revert NotUsersKey(user, key);
        uint256 end = EpochClock(book.get(CLOCK)).endOf(epoch);
        if (end > session.expiry) revert SessionKeyExpired(key, session.expiry, end);
        if (session.nexus != nexus || (session.kinds >> kind) & 1 == 0) revert SessionKeyOutOfScope(key, nexus, kind);
        if (amount > session.cap || session.used > session.cap - amount) {
            revert SessionKeyExhausted(key, session.cap, session.used, amount);
        }
        sessionKeyOf[user][key].used = session.used + amount;
    }

    function _debit(uint256 nexus, uint256 epoch, bytes calldata entries)
        private
        returns (Amounts memory claimed, Amounts memory applied)
    {
        uint256 known = count;
        // Sums of whole amount fields (faucet · 2⁶⁴ + purchased) and of their purchased part alone; the faucet part follows.
        uint256 amounts;
        uint256 purchased;
        Amounts memory skipped;
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
                uint256 marked = _mark(slot, epoch);
                // Once the purchased parts compare, whole fields compare as their faucet parts do.
                if (
                    debitPurchased > slot & Entry.PURCHASED_MASK || debits > slot & Entry.AMOUNTS_MASK
                        || debits == 0 || uint16(slot >> NEXUS) != nexus || entry.id() >= known || marked == slot
                ) {
                    skipped.purchased += uint128(debitPurchased);
                    skipped.faucet += uint128(debits >> Entry.FAUCET);
                    emit UserSkipped(entry.id(), epoch, debitPurchased, debits >> Entry.FAUCET);
                    continue;
                }
                marked -= debits;
                assembly ("memory-safe") {
                    sstore(add(_slots.slot, shr(128, entry)), marked)
                }
            }
            claimed = Amounts(uint128(purchased), uint128((amounts - purchased) >> Entry.FAUCET));
            applied = Amounts(claimed.purchased - skipped.purchased, claimed.faucet - skipped.faucet);
        }
    }

    /// @dev The slot with `epoch` marked as debited; the slot as it is if it was marked before, or is too old to tell.
    function _mark(uint256 slot, uint256 epoch) private pure returns (uint256) {
        unchecked {
            uint256 settled = uint32(slot >> SETTLED);
            uint256 recent = slot >> RECENT;
            if (epoch < settled) {
                uint256 age = settled - 1 - epoch;
                return age < REMEMBERED ? slot | (1 << (RECENT + age)) : slot;
            }
            uint256 elapsed = epoch + 1 - settled;
            recent = elapsed < REMEMBERED ? ((recent << elapsed) | 1) & RECENT_MASK : 1;
            uint256 kept = slot & ~((RECENT_MASK << RECENT) | (uint256(type(uint32).max) << SETTLED));
            return kept | (recent << RECENT) | ((epoch + 1) << SETTLED);
        }
    }
}
