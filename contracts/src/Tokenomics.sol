// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {ERC20Burnable} from "@openzeppelin/contracts/token/ERC20/extensions/ERC20Burnable.sol";
import {BitMaps} from "@openzeppelin/contracts/utils/structs/BitMaps.sol";
import {AddressBook} from "./AddressBook.sol";
import {Bonus} from "./Bonus.sol";
import {Claims} from "./Claims.sol";
import {Entry} from "./Entry.sol";
import {EpochClock} from "./EpochClock.sol";
import {Faucet} from "./Faucet.sol";
import {NodeRegistry} from "./NodeRegistry.sol";
import {Split} from "./Split.sol";
import {UserRegistry} from "./UserRegistry.sol";
import {Vouchers} from "./Vouchers.sol";
import {CLOCK, NANO_LAI, NODES, TOKEN, USERS, Wired} from "./Wired.sol";

/// @notice Pays nodes out of users' escrow: by an oracle's batch within an epoch's grace, or afterwards by a payer's voucher.
contract Tokenomics is Bonus, Faucet, Vouchers {
    using BitMaps for BitMaps.BitMap;
    using Entry for bytes;
    using Entry for uint256;

    /// @notice Most users, and most nodes, in one chunk.
    uint256 public constant MAX_ENTRIES = 1000;

    BitMaps.BitMap private _settled;

    /// @notice `users` and `nodes` as they were given; users that were skipped have events of their own.
    event ChunkSettled(
        uint16 indexed nexus,
        uint32 indexed epoch,
        uint16 indexed chunk,
        uint128 purchased,
        uint128 faucet,
        Split.Cuts cuts,
        bytes users,
        bytes nodes
    );
    event NodeSkipped(uint256 indexed node, uint256 purchased, uint256 faucet);
    event VoucherPresented(UsageVoucher voucher, address signer, uint32 since);
    event VoucherCollected(
        uint16 indexed nexus,
        uint32 indexed epoch,
        uint32 indexed payer,
        uint32 node,
        uint64 purchased,
        uint64 faucet,
        Split.Cuts cuts
    );

    error AlreadySettled(uint16 nexus, uint32 epoch, uint16 chunk);
    error NotSettling(uint32 epoch, uint32 current);
    error ChunkUnbalanced(uint256 debitPurchased, uint256 grossPurchased, uint256 debitFaucet, uint256 grossFaucet);
    error NotCollecting(uint32 epoch, uint32 current);
    error UnknownPayee(uint32 node);
    error NothingToCollect(uint32 payer);

    constructor(AddressBook book_, Split.Rates memory rates_, Bonus.Terms memory terms_)
        Wired(book_)
        Claims(rates_)
        Bonus(terms_)
    {}

    function isSettled(uint16 nexus, uint32 epoch, uint16 chunk) external view returns (bool) {
        return _settled.get(_key(nexus, epoch, chunk));
    }

    /// @notice Settle one chunk of an epoch, once. `users` and `nodes` are entries (see Entry.sol): debits and grosses.
    /// The debits must add up to the grosses, purchased and faucet parts apart. If debits are skipped, the grosses shrink
    /// in proportion, rounded down; what rounding and unknown nodes leave over is the treasury's.
    function settle(uint16 nexus, uint32 epoch, uint16 chunk, bytes calldata users, bytes calldata nodes)
        external
        onlyOracle(nexus)
        nonReentrant
    {
        users.check(MAX_ENTRIES);
        nodes.check(MAX_ENTRIES);
        EpochClock clock = EpochClock(book.get(CLOCK));
        if (!clock.settles(epoch)) revert NotSettling(epoch, clock.current());
        if (_settled.get(_key(nexus, epoch, chunk))) revert AlreadySettled(nexus, epoch, chunk);
        _settled.set(_key(nexus, epoch, chunk));

        (UserRegistry.Amounts memory claimed, UserRegistry.Amounts memory applied) =
            UserRegistry(book.get(USERS)).debit(nexus, epoch, users);
        _checkBalanced(claimed, nodes);
        Split.Cuts memory cuts = _credit(nodes, claimed, applied);
        _record(cuts);
        emit ChunkSettled(nexus, epoch, chunk, applied.purchased, applied.faucet, cuts, users, nodes);
        _burn(cuts.burned);
    }

    /// @notice Present what a payer signed for and no batch settled; it is paid once the grace of this epoch is over. Anyone may.
    function present(UsageVoucher calldata voucher, bytes calldata signature) external nonReentrant {
        EpochClock clock = EpochClock(book.get(CLOCK));
        uint32 since = clock.current();
        if (!clock.collects(voucher.epoch)) revert NotCollecting(voucher.epoch, since);
        NodeRegistry nodes = NodeRegistry(book.get(NODES));
        if (voucher.node >= nodes.count()) revert UnknownPayee(voucher.node);
        address signer = _signer(voucher, signature);
        uint64 more = _present(voucher, since);
        emit VoucherPresented(voucher, signer, since);
        UserRegistry(book.get(USERS)).authorise(
            voucher.nexus, voucher.epoch, voucher.payer, nodes.kindOf(voucher.node), more, signer
        );
    }

    /// @notice Pay a node what was presented and has waited, as far as the payer's credit goes. Anyone may.
    function collect(uint16 nexus, uint32 epoch, uint32 payer, uint32 node) external nonReentrant {
        uint64 due = _due(nexus, epoch, payer, node);
        (uint64 purchased, uint64 faucet) = UserRegistry(book.get(USERS)).debitVoucher(payer, due);
        if (purchased + faucet == 0) revert NothingToCollect(payer);
        _addPaid(nexus, epoch, payer, node, purchased + faucet);
        Split.Cuts memory cuts;
        _earn(node, purchased, faucet, _ratesInForce(), cuts);
        _record(cuts);
        emit VoucherCollected(nexus, epoch, payer, node, purchased, faucet, cuts);
        _burn(cuts.burned);
    }

    /// @notice Open the books of nodes that were never paid, so that a settlement which pays many of them at once fits its gas.
    function openBooks(uint32[] calldata ids) external {
        uint256 known = NodeRegistry(book.get(NODES)).count();
        for (uint256 i = 0; i < ids.length; i++) {
            if (ids[i] >= known) revert UnknownPayee(ids[i]);
            _open(ids[i]);
        }
    }

    function _lapsed(uint32 epoch) internal view override returns (bool) {
        return EpochClock(book.get(CLOCK)).lapsed(epoch);
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

    /// @dev Credits each node of a balanced chunk. All sums are at most `applied`, which was paid in tokens, of which there are
    /// fewer than 2⁶³ nanoLAI: 64 bits hold them.
    function _credit(bytes calldata nodes, UserRegistry.Amounts memory claimed, UserRegistry.Amounts memory applied)
        private
        returns (Split.Cuts memory cuts)
    {
        Split.Rates memory current = _ratesInForce();
        uint256 known = NodeRegistry(book.get(NODES)).count();
        unchecked {
            for (uint256 offset = 0; offset < nodes.length; offset += Entry.SIZE) {
                uint256 entry = nodes.read(offset);
                if (entry.id() >= known) {
                    emit NodeSkipped(entry.id(), entry.purchased(), entry.faucet());
                    continue;
                }
                uint256 purchased = _scale(entry.purchased(), applied.purchased, claimed.purchased);
                _earn(entry.id(), purchased, _scale(entry.faucet(), applied.faucet, claimed.faucet), current, cuts);
            }
            uint256 credited = cuts.burned + cuts.treasury + cuts.auditors + cuts.delegators + cuts.operators;
            cuts.treasury += applied.purchased + applied.faucet - credited;
        }
    }

    function _scale(uint256 gross, uint256 applied, uint256 claimed) private pure returns (uint256) {
        return applied == claimed ? gross : gross * applied / claimed;
    }

    function _burn(uint256 nanoLai) private {
        if (nanoLai != 0) ERC20Burnable(book.get(TOKEN)).burn(nanoLai * NANO_LAI);
    }
}
