// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {AddressBook} from "./AddressBook.sol";
import {EpochClock} from "./EpochClock.sol";
import {NodeRegistry} from "./NodeRegistry.sol";
import {CLOCK, NODES, Wired} from "./Wired.sol";

/// @notice What each Nexus says of the nodes: which were healthy in an epoch, and their reputation after it. A post can be
/// overruled for a while; then it is final.
contract NetworkStatus is Wired {
    /// @notice A report on an epoch.
    struct Post {
        /// @notice Hash over this report and all before it that stand.
        bytes32 root;
        /// @notice Unix time from which nobody can overrule it; zero if there is no report.
        uint40 finalAt;
        /// @notice Nodes 0 to `nodes` − 1 are reported on.
        uint32 nodes;
        /// @notice One more than the epoch of the report before; zero for none.
        uint32 previous;
        bool overruled;
    }

    /// @dev `next` is one more than the epoch of the latest report that stands, `written` of the report whose reputations are
    /// stored; zero for none.
    struct Head {
        uint32 next;
        uint32 written;
    }

    uint32 private constant LONGEST_WINDOW = 30 days;
    uint256 private constant WORD = 32;
    uint256 private constant BITS = 256;
    uint256 private constant VALUES = 16;

    /// @notice Seconds in which a new report can be overruled.
    uint32 public challengeWindow;
    mapping(uint16 nexus => mapping(uint32 epoch => Post)) public posts;
    mapping(uint16 nexus => Head) private _heads;
    /// @dev Both as they were posted, 32 bytes to a word.
    mapping(uint16 nexus => mapping(uint32 epoch => bytes32[1 << 24])) private _health;
    mapping(uint16 nexus => bytes32[1 << 28]) private _reputation;

    event ChallengeWindowSet(uint32 window);
    event StatusPosted(
        uint16 indexed nexus, uint32 indexed epoch, bytes health, bytes reputation, bytes32 root, uint40 finalAt
    );
    event StatusWithdrawn(uint16 indexed nexus, uint32 indexed epoch);

    error WindowOutOfRange(uint32 window, uint32 longest);
    error EpochNotOver(uint32 epoch, uint256 end);
    error EpochOutOfOrder(uint32 epoch, uint32 last);
    error ReputationMalformed(uint256 bytesGiven, uint256 largest);
    error NothingPosted(uint16 nexus);
    error NotPosted(uint16 nexus, uint32 epoch);
    error NotLatest(uint32 epoch, uint32 last);
    error StatusFinal(uint16 nexus, uint32 epoch, uint40 since);
    error StatusOverruled(uint16 nexus, uint32 epoch);
    error NodeNotReported(uint32 node, uint32 nodes);

    constructor(AddressBook book_, uint32 window) Wired(book_) {
        _setChallengeWindow(window);
    }

    /// @notice Reports that are posted already keep theirs.
    function setChallengeWindow(uint32 window) external onlyOwner {
        _setChallengeWindow(window);
    }

    /// @notice Report on the first nodes, as many as `reputation` has values, after an epoch later than the last one reported.
    /// @param health one bit a node, most significant first: node i is healthy if bit 7 − i mod 8 of byte i / 8 is set
    /// @param reputation one big-endian uint16 a node; 65535 is a reputation of 1
    function post(uint16 nexus, uint32 epoch, bytes calldata health, bytes calldata reputation) external onlyOracle(nexus) {
        uint256 end = EpochClock(book.get(CLOCK)).endOf(epoch);
        if (block.timestamp < end) revert EpochNotOver(epoch, end);
        uint32 next = _heads[nexus].next;
        if (epoch < next) revert EpochOutOfOrder(epoch, next - 1);
        uint256 known = NodeRegistry(book.get(NODES)).count();
        if (reputation.length % 2 != 0 || reputation.length > 2 * known) {
            revert ReputationMalformed(reputation.length, 2 * known);
        }
        uint256 nodes = reputation.length / 2;
        _sameLength((nodes + 7) / 8, health.length);

        bytes32 root = keccak256(abi.encode(historyRoot(nexus), epoch, keccak256(health), keccak256(reputation)));
        uint40 finalAt = uint40(block.timestamp + challengeWindow);
        posts[nexus][epoch] = Post(root, finalAt, uint32(nodes), next, false);
        _heads[nexus] = Head(epoch + 1, epoch + 1);
        bytes32[1 << 24] storage healthWords = _health[nexus][epoch];
        for (uint256 i = 0; i * WORD < health.length; i++) {
            healthWords[i] = bytes32(health[i * WORD:]);
        }
        bytes32[1 << 28] storage reputationWords = _reputation[nexus];
        for (uint256 i = 0; i * WORD < reputation.length; i++) {
            reputationWords[i] = bytes32(reputation[i * WORD:]);
        }
        emit StatusPosted(nexus, epoch, health, reputation, root, finalAt);
    }

    /// @notice Withdraw the latest report of a Nexus before it is final. Its epoch may be reported on again.
    function overrule(uint16 nexus, uint32 epoch) external onlyOwner {
        uint32 next = _heads[nexus].next;
        if (next == 0) revert NothingPosted(nexus);
        if (epoch != next - 1) revert NotLatest(epoch, next - 1);
        Post storage it = posts[nexus][epoch];
        if (block.timestamp >= it.finalAt) revert StatusFinal(nexus, epoch, it.finalAt);
        it.overruled = true;
        _heads[nexus].next = it.previous;
        emit StatusWithdrawn(nexus, epoch);
    }

    /// @notice Hash over all reports of a Nexus that stand: each hashes the root before it, the epoch and the hashes of both
    /// columns; zero before the first.
    function historyRoot(uint16 nexus) public view returns (bytes32) {
        uint32 next = _heads[nexus].next;
        return next == 0 ? bytes32(0) : posts[nexus][next - 1].root;
    }

    /// @notice Whether there is a report on the epoch that nobody can overrule any more.
    function isFinal(uint16 nexus, uint32 epoch) public view returns (bool) {
        Post storage it = posts[nexus][epoch];
        return it.finalAt != 0 && !it.overruled && block.timestamp >= it.finalAt;
    }

    function healthy(uint16 nexus, uint32 epoch, uint32 node) external view returns (bool) {
        _checkReported(nexus, epoch, node);
        return uint256(_health[nexus][epoch][node / BITS]) >> (BITS - 1 - node % BITS) & 1 == 1;
    }

    /// @return reputation 65535 is 1
    /// @return epoch after which it was that
    /// @return final_ whether nobody can overrule it any more
    function reputationOf(uint16 nexus, uint32 node) external view returns (uint16 reputation, uint32 epoch, bool final_) {
        uint32 written = _heads[nexus].written;
        if (written == 0) revert NothingPosted(nexus);
        epoch = written - 1;
        _checkReported(nexus, epoch, node);
        reputation = uint16(uint256(_reputation[nexus][node / VALUES]) >> 16 * (VALUES - 1 - node % VALUES));
        final_ = isFinal(nexus, epoch);
    }

    function _setChallengeWindow(uint32 window) private {
        if (window == 0 || window > LONGEST_WINDOW) revert WindowOutOfRange(window, LONGEST_WINDOW);
        challengeWindow = window;
        emit ChallengeWindowSet(window);
    }

    function _checkReported(uint16 nexus, uint32 epoch, uint32 node) private view {
        Post storage it = posts[nexus][epoch];
        if (it.finalAt == 0) revert NotPosted(nexus, epoch);
        if (it.overruled) revert StatusOverruled(nexus, epoch);
        if (node >= it.nodes) revert NodeNotReported(node, it.nodes);
    }
}
