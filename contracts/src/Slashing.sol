// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";
import {AddressBook} from "./AddressBook.sol";
import {NodeRegistry} from "./NodeRegistry.sol";
import {Split} from "./Split.sol";
import {NODES, Wired} from "./Wired.sol";

/// @notice Takes stakes for misconduct. Two different signed answers to one request prove themselves and are punished at once;
/// for everything else an oracle proposes, the operator may appeal, and then the owner decides.
///
///     Open ── window passes ──> execute
///       └─ appeal ─> Appealed ── decide(true) ──> slashed
///                       ├─ decide(false) ──> dismissed
///                       └─ window passes ──> lapse: dismissed
contract Slashing is EIP712, Wired {
    enum State {
        None,
        Open,
        Appealed,
        Closed
    }

    struct Terms {
        /// @notice Part of the stake that two different answers cost.
        uint32 equivocationPpm;
        /// @notice Part of the stake that open proposals may take together.
        uint32 proposalPpm;
        /// @notice Part of what is taken that goes to the reporter. It may be the operator itself, so the rest must hurt.
        uint32 reporterPpm;
        /// @notice Seconds to appeal, and again to decide.
        uint32 appealWindow;
    }

    struct Proposal {
        address reporter;
        /// @notice nanoLAI.
        uint64 amount;
        uint32 node;
        /// @notice Unix time at which the present window ends: to appeal while open, to decide while appealed.
        uint40 until;
        State state;
    }

    uint32 private constant LARGEST_REPORTER_PPM = 500_000;
    uint32 private constant LONGEST_WINDOW = 30 days;
    bytes32 private constant ANSWER = keccak256("Answer(uint64 request,uint32 node,bytes32 contentHash)");

    Terms public terms;
    Proposal[] public proposals;
    /// @notice nanoLAI that open proposals would take from a node.
    mapping(uint32 node => uint64) public proposedAgainst;
    /// @notice Whether a node has been slashed for two answers to a request.
    mapping(uint32 node => mapping(uint64 request => bool)) public equivocated;

    event TermsSet(Terms terms);
    event EquivocationProven(
        uint32 indexed node, uint64 indexed request, address indexed reporter, bytes32 hashA, bytes32 hashB, uint64 taken
    );
    event SlashProposed(
        uint256 indexed id, uint32 indexed node, uint16 indexed nexus, uint64 nanoLai, bytes32 evidence, uint40 until
    );
    event SlashAppealed(uint256 indexed id, uint40 until);
    event SlashExecuted(uint256 indexed id, uint64 taken);
    event SlashDismissed(uint256 indexed id);

    error ShareTooLarge(uint32 ppm, uint32 largest);
    error WindowOutOfRange(uint32 window, uint32 longest);
    error SameAnswer(uint32 node, uint64 request);
    error AlreadySlashed(uint32 node, uint64 request);
    error NotNodesSigner(uint32 node, address signer);
    error AmountZero(uint32 node);
    error ProposalTooLarge(uint64 nanoLai, uint64 largest);
    error UnknownProposal(uint256 id);
    error WrongState(uint256 id, State state);
    error WindowOpen(uint256 id, uint40 until);
    error WindowOver(uint256 id, uint40 until);
    error NotOperator(uint32 node, address caller);

    constructor(AddressBook book_, Terms memory terms_) EIP712("Lattice", "1") Wired(book_) {
        _setTerms(terms_);
    }

    /// @notice Windows that are open already keep their end.
    function setTerms(Terms calldata terms_) external onlyOwner {
        _setTerms(terms_);
    }

    function proposalCount() external view returns (uint256) {
        return proposals.length;
    }

    /// @notice What a node signs when it answers a request (EIP-712).
    function answerDigest(uint64 request, uint32 node, bytes32 contentHash) public view returns (bytes32) {
        return _hashTypedDataV4(keccak256(abi.encode(ANSWER, request, node, contentHash)));
    }

    /// @notice Slash a node that has signed two different answers to one request, once. Anyone may, and is the reporter.
    function proveEquivocation(
        uint32 node,
        uint64 request,
        bytes32 hashA,
        bytes calldata sigA,
        bytes32 hashB,
        bytes calldata sigB
    ) external {
        if (hashA == hashB) revert SameAnswer(node, request);
        if (equivocated[node][request]) revert AlreadySlashed(node, request);
        NodeRegistry nodes = _nodes();
        _checkSigned(nodes, node, answerDigest(request, node, hashA), sigA);
        _checkSigned(nodes, node, answerDigest(request, node, hashB), sigB);
        equivocated[node][request] = true;
        uint64 amount = _part(nodes.stakeOf(node), terms.equivocationPpm);
        uint64 taken = nodes.slash(node, amount, msg.sender, terms.reporterPpm);
        emit EquivocationProven(node, request, msg.sender, hashA, hashB, taken);
    }

    /// @notice Propose to take `nanoLai` from a node's stake, and freeze it until that is settled. The caller is the reporter.
    /// @param evidence hash of what speaks for it, published elsewhere
    function propose(uint16 nexus, uint32 node, uint64 nanoLai, bytes32 evidence)
        external
        onlyOracle(nexus)
        returns (uint256 id)
    {
        if (nanoLai == 0) revert AmountZero(node);
        NodeRegistry nodes = _nodes();
        uint64 limit = _part(nodes.stakeOf(node), terms.proposalPpm);
        uint64 proposed = proposedAgainst[node];
        // What is proposed already may be more than the limit, after another slash or under other terms.
        uint64 largest = proposed < limit ? limit - proposed : 0;
        if (nanoLai > largest) revert ProposalTooLarge(nanoLai, largest);
        id = proposals.length;
        uint40 until = _windowEnd();
        proposals.push(Proposal(msg.sender, nanoLai, node, until, State.Open));
        proposedAgainst[node] = proposed + nanoLai;
        emit SlashProposed(id, node, nexus, nanoLai, evidence, until);
        nodes.freeze(node);
    }

    /// @notice Leave a proposal against one's node to the owner.
    function appeal(uint256 id) external {
        Proposal storage it = _inState(id, State.Open);
        if (msg.sender != _nodes().operatorOf(it.node)) revert NotOperator(it.node, msg.sender);
        _checkWindowOpen(id, it);
        (it.state, it.until) = (State.Appealed, _windowEnd());
        emit SlashAppealed(id, it.until);
    }

    /// @notice Uphold an appealed proposal and slash, or dismiss it.
    function decide(uint256 id, bool uphold) external onlyOwner {
        Proposal storage it = _inState(id, State.Appealed);
        _checkWindowOpen(id, it);
        if (uphold) _execute(id, it);
        else _dismiss(id, it);
    }

    /// @notice Slash for a proposal that nobody has appealed. Anyone may.
    function execute(uint256 id) external {
        Proposal storage it = _inState(id, State.Open);
        _checkWindowOver(id, it);
        _execute(id, it);
    }

    /// @notice Dismiss an appealed proposal that nobody has decided. Anyone may.
    function lapse(uint256 id) external {
        Proposal storage it = _inState(id, State.Appealed);
        _checkWindowOver(id, it);
        _dismiss(id, it);
    }

    function _setTerms(Terms memory terms_) private {
        _checkShare(terms_.equivocationPpm, uint32(Split.PPM));
        _checkShare(terms_.proposalPpm, uint32(Split.PPM));
        _checkShare(terms_.reporterPpm, LARGEST_REPORTER_PPM);
        uint32 window = terms_.appealWindow;
        if (window == 0 || window > LONGEST_WINDOW) revert WindowOutOfRange(window, LONGEST_WINDOW);
        terms = terms_;
        emit TermsSet(terms_);
    }

    function _execute(uint256 id, Proposal storage it) private {
        NodeRegistry nodes = _close(it);
        uint64 taken = nodes.slash(it.node, it.amount, it.reporter, terms.reporterPpm);
        emit SlashExecuted(id, taken);
    }

    function _dismiss(uint256 id, Proposal storage it) private {
        _close(it);
        emit SlashDismissed(id);
    }

    function _close(Proposal storage it) private returns (NodeRegistry nodes) {
        it.state = State.Closed;
        proposedAgainst[it.node] -= it.amount;
        nodes = _nodes();
        nodes.unfreeze(it.node);
    }

    function _nodes() private view returns (NodeRegistry) {
        return NodeRegistry(book.get(NODES));
    }

    function _windowEnd() private view returns (uint40) {
        return uint40(block.timestamp + terms.appealWindow);
    }

    function _inState(uint256 id, State expected) private view returns (Proposal storage it) {
        if (id >= proposals.length) revert UnknownProposal(id);
        it = proposals[id];
        if (it.state != expected) revert WrongState(id, it.state);
    }

    function _checkWindowOpen(uint256 id, Proposal storage it) private view {
        if (block.timestamp >= it.until) revert WindowOver(id, it.until);
    }

    function _checkWindowOver(uint256 id, Proposal storage it) private view {
        if (block.timestamp < it.until) revert WindowOpen(id, it.until);
    }

    function _checkSigned(NodeRegistry nodes, uint32 node, bytes32 digest, bytes calldata signature) private view {
        address signer = ECDSA.recoverCalldata(digest, signature);
        if (!nodes.answersFor(node, signer)) revert NotNodesSigner(node, signer);
    }

    function _checkShare(uint32 ppm, uint32 largest) private pure {
        if (ppm > largest) revert ShareTooLarge(ppm, largest);
    }

    function _part(uint64 stake, uint32 ppm) private pure returns (uint64) {
        return uint64(uint256(stake) * ppm / Split.PPM);
    }
}
