// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {AddressBook} from "./AddressBook.sol";
import {Claims} from "./Claims.sol";
import {Entry} from "./Entry.sol";
import {LAIToken} from "./LAIToken.sol";
import {Split} from "./Split.sol";
import {NANO_LAI, TOKEN} from "./Wired.sol";

/// @notice A pool that grows with time and is shared among nodes by weights which an oracle posts and the owner may reject. No
/// node gets more than a part of what was burned of its purchased fees, so that paying oneself never pays.
abstract contract Bonus is Claims {
    using Entry for bytes;
    using Entry for uint256;

    struct Terms {
        /// @notice nanoLAI a day.
        uint64 perDay;
        /// @notice Most of what was burned for a node that comes back to it, in parts per million; less than all.
        uint32 returned;
        /// @notice Seconds in which the owner may reject weights.
        uint32 window;
    }

    /// @notice Weights that wait for their window to pass.
    struct Proposal {
        bytes32 weights;
        uint40 since;
        uint40 until;
    }

    uint256 private constant MOST_NODES = 1000;

    Terms public terms;
    Proposal public proposal;
    /// @notice Unix time up to which the pool has been paid out.
    uint40 public paidUntil;

    event TermsSet(Terms terms);
    event BonusProposed(uint16 indexed nexus, bytes weights, uint40 until);
    event BonusRejected(bytes32 weights);
    event BonusPaid(bytes32 indexed weights, uint64 pool, uint64 treasury, uint64 minted);

    error ReturnedTooLarge(uint32 ppm);
    error ProposalOpen(uint40 until);
    error NoProposal();
    error WindowOpen(uint40 until);
    error WeightsDiffer(bytes32 proposed, bytes32 given);
    error WeightsZero();

    constructor(Terms memory terms_) {
        paidUntil = uint40(block.timestamp);
        _setTerms(terms_);
    }

    /// @notice The pool begins anew, and weights posted under the old terms are rejected.
    function setTerms(Terms calldata terms_) external onlyOwner {
        if (proposal.until != 0) rejectBonus();
        paidUntil = uint40(block.timestamp);
        _setTerms(terms_);
    }

    /// @notice Post the weights of nodes: entries whose amount is the weight (see Entry.sol), not all of them zero.
    function proposeBonus(uint16 nexus, bytes calldata weights) external onlyOracle(nexus) {
        if (proposal.until != 0) revert ProposalOpen(proposal.until);
        weights.check(MOST_NODES);
        if (_sum(weights) == 0) revert WeightsZero();
        uint40 until = uint40(block.timestamp + terms.window);
        proposal = Proposal(keccak256(weights), uint40(block.timestamp), until);
        emit BonusProposed(nexus, weights, until);
    }

    /// @notice Throw away the weights that were posted last, unless they have been paid by.
    function rejectBonus() public onlyOwner {
        Proposal memory open = proposal;
        if (open.until == 0) revert NoProposal();
        delete proposal;
        emit BonusRejected(open.weights);
    }

    /// @notice Pay the pool by the weights that nobody rejected; from the treasury, and minted where that does not reach.
    function payBonus(bytes calldata weights) external {
        Proposal memory open = proposal;
        if (open.until == 0) revert NoProposal();
        if (block.timestamp < open.until) revert WindowOpen(open.until);
        bytes32 given = keccak256(weights);
        if (given != open.weights) revert WeightsDiffer(open.weights, given);
        LAIToken token = LAIToken(book.get(TOKEN));
        uint64 treasury = claims.treasury;
        uint256 pool = _pool(open.since, treasury + (token.cap() - token.minted()) / NANO_LAI);
        delete proposal;
        paidUntil = open.since;
        Split.Cuts memory cuts = _share(weights, pool);
        uint256 total = cuts.operators + cuts.delegators;
        if (total < treasury) treasury = uint64(total);
        claims.treasury -= treasury;
        _record(cuts);
        emit BonusPaid(given, uint64(pool), treasury, uint64(total - treasury));
        if (total > treasury) token.mint(address(this), (total - treasury) * NANO_LAI);
    }

    /// @dev What has come together until `since`, but no more than `most`.
    function _pool(uint40 since, uint256 most) private view returns (uint256 pool) {
        pool = uint256(terms.perDay) * (since - paidUntil) / 1 days;
        if (pool > most) pool = most;
    }

    function _share(bytes calldata weights, uint256 pool) private returns (Split.Cuts memory cuts) {
        uint256 sum = _sum(weights);
        (uint256 returned, uint256 delegatorsPpm) = (terms.returned, rates.delegators);
        for (uint256 offset = 0; offset < weights.length; offset += Entry.SIZE) {
            uint256 entry = weights.read(offset);
            uint32 node = uint32(entry.id());
            (,, uint64 burned) = earned(node);
            uint256 most = burned * returned / Split.PPM;
            uint256 bonus = pool * entry.purchased() / sum;
            if (bonus > most) bonus = most;
            uint256 delegators = Split.share(bonus, delegatorsPpm);
            cuts.delegators += delegators;
            cuts.operators += bonus - delegators;
            _reward(node, bonus - delegators, delegators);
        }
    }

    function _sum(bytes calldata weights) private pure returns (uint256 sum) {
        for (uint256 offset = 0; offset < weights.length; offset += Entry.SIZE) {
            sum += weights.read(offset).purchased();
        }
    }

    function _setTerms(Terms memory terms_) private {
        if (terms_.returned >= Split.PPM) revert ReturnedTooLarge(terms_.returned);
        terms = terms_;
        emit TermsSet(terms_);
    }
}
