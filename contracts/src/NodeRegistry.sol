// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {ERC20Burnable} from "@openzeppelin/contracts/token/ERC20/extensions/ERC20Burnable.sol";
import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";
import {AddressBook} from "./AddressBook.sol";
import {Decay} from "./Decay.sol";
import {Split} from "./Split.sol";
import {NANO_LAI, SLASHING, TOKEN, Wired} from "./Wired.sol";

/// @notice Nodes by dense id: who operates them, what they offer and where, and the bonds that stand behind them. A join burns
/// LAI, the more the more have joined lately, so that a new identity is never free.
contract NodeRegistry is Wired {
    using SafeERC20 for IERC20;

    /// @notice A node. Its first slot says whom to pay, and is the only one that settling reads; the second is its key and what
    /// thaws; the third is written only when a bond thaws or is frozen.
    struct Node {
        /// @notice Owns the bond and is paid; kept cold.
        address operator;
        /// @notice nanoLAI.
        uint64 bond;
        uint16 cluster;
        uint8 kind;
        /// @notice Whether it has deregistered.
        bool left;
        /// @notice The hot key that signs answers.
        address signer;
        /// @notice nanoLAI that will be the operator's, and can be slashed until it is withdrawn.
        uint64 thawing;
        /// @notice Unix time from which what thaws may be withdrawn.
        uint40 thawedAt;
        /// @notice Open proposals to slash; while there are any, nothing is withdrawn.
        uint32 proposals;
    }

    /// @notice What a node asks for serving a model.
    struct Offer {
        /// @notice nanoLAI per million prompt tokens.
        uint64 priceIn;
        /// @notice nanoLAI per million output tokens.
        uint64 priceOut;
        /// @notice How the model is served, such as its quantisation; numbers as the Nexuses publish them.
        uint8 variant;
        bool live;
    }

    struct Terms {
        /// @notice Least nanoLAI that a join burns.
        uint64 floor;
        /// @notice By how many parts per million a join raises the price of the next.
        uint32 risePpm;
        /// @notice Seconds in which the price halves, down to the floor.
        uint32 halfLife;
        /// @notice Seconds from unbonding to withdrawal. Misconduct that is found later goes unpunished, so that it should
        /// cover the search for it and the appeal window of Slashing.
        uint32 thaw;
    }

    /// @dev The price of a join in nanoLAI as it was at `since`, and what all joins have burned.
    struct Joins {
        uint64 price;
        uint40 since;
        uint64 burned;
    }

    /// @dev Kinds are llm (0), knowledge (1) and agent (2).
    uint8 private constant KINDS = 3;
    uint256 private constant LONGEST_ENDPOINT = 256;
    uint32 private constant LONGEST_THAW = 90 days;

    Terms public terms;
    /// @notice How many nodes there are; ids run from 0 and are never used again.
    uint32 public count;
    /// @notice All bonds, thawing ones included, in nanoLAI; this contract's token balance is exactly this.
    uint64 public totalBonded;
    Joins private _joins;
    Node[1 << 32] private _nodes;
    mapping(uint32 node => mapping(bytes32 modelHash => Offer)) private _offers;
    /// @notice Where a node is reached; empty if it has not said.
    mapping(uint32 node => string) public endpointOf;
    /// @dev Until when a replaced signer still answers for the node: as long as the bond that it signed under could thaw.
    mapping(uint32 node => mapping(address signer => uint40)) private _retiredUntil;

    event TermsSet(Terms terms);
    event NodeRegistered(
        uint32 indexed node, address indexed operator, address signer, uint8 kind, uint16 cluster, uint64 burned
    );
    event NodeDeregistered(uint32 indexed node);
    event OperatorSet(uint32 indexed node, address indexed operator);
    event SignerSet(uint32 indexed node, address signer);
    event EndpointSet(uint32 indexed node, string endpoint);
    event OfferPosted(uint32 indexed node, bytes32 indexed modelHash, uint8 variant, uint64 priceIn, uint64 priceOut);
    event OfferWithdrawn(uint32 indexed node, bytes32 indexed modelHash);
    event Bonded(uint32 indexed node, address indexed payer, uint64 nanoLai);
    event Unbonded(uint32 indexed node, uint64 nanoLai, uint40 thawedAt);
    event Rebonded(uint32 indexed node, uint64 nanoLai);
    event BondWithdrawn(uint32 indexed node, address indexed operator, uint64 nanoLai);
    event ProposalsChanged(uint32 indexed node, uint32 proposals);
    event Slashed(uint32 indexed node, address indexed reporter, uint64 taken, uint64 reward);

    error HalfLifeZero();
    error RiseTooLarge(uint32 ppm, uint32 largest);
    error ThawOutOfRange(uint32 thaw, uint32 longest);
    error NothingToRegister();
    error UnknownNode(uint32 node);
    error KindUnknown(uint8 kind);
    error OperatorMissing(uint32 node);
    error SignerMissing(uint32 node);
    error NotOperator(uint32 node, address caller);
    error NodeLeft(uint32 node);
    error EndpointTooLong(uint256 length, uint256 longest);
    error UnknownOffer(uint32 node, bytes32 modelHash);
    error AmountZero(uint32 node);
    error BondTooSmall(uint32 node, uint64 bonded, uint64 asked);
    error NothingThawed(uint32 node);
    error StillThawing(uint32 node, uint40 until);
    error Frozen(uint32 node, uint32 proposals);

    modifier onlyOperator(uint32 id) {
        _checkOperator(id);
        _;
    }

    /// @dev The operator of a node that has not deregistered.
    modifier onlyActiveOperator(uint32 id) {
        _checkActiveOperator(id);
        _;
    }

    constructor(AddressBook book_, Terms memory terms_) Wired(book_) {
        _setTerms(terms_);
    }

    /// @notice The price of a join goes on from where it stands.
    function setTerms(Terms calldata terms_) external onlyOwner {
        (_joins.price, _joins.since) = (registrationPrice(), uint40(block.timestamp));
        _setTerms(terms_);
    }

    // Reading

    function operatorOf(uint32 id) external view returns (address) {
        return _known(id).operator;
    }

    function signerOf(uint32 id) external view returns (address) {
        return _known(id).signer;
    }

    function kindOf(uint32 id) external view returns (uint8) {
        return _known(id).kind;
    }

    function node(uint32 id) external view returns (Node memory) {
        return _known(id);
    }

    /// @notice What can be slashed: the bond and what of it thaws, in nanoLAI.
    function stakeOf(uint32 id) external view returns (uint64) {
        Node storage it = _known(id);
        return it.bond + it.thawing;
    }

    /// @notice Whether what `key` signs, or signed before it was replaced, binds the node.
    function answersFor(uint32 id, address key) external view returns (bool) {
        return key == _known(id).signer || block.timestamp < _retiredUntil[id][key];
    }

    /// @notice What a node that has not left asks for a model.
    function offer(uint32 id, bytes32 modelHash) external view returns (Offer memory posted) {
        posted = _offers[id][modelHash];
        if (!posted.live || _nodes[id].left) revert UnknownOffer(id, modelHash);
    }

    /// @notice What the next join burns, in nanoLAI.
    function registrationPrice() public view returns (uint64) {
        Joins memory joins = _joins;
        uint256 price = Decay.decayed(joins.price, block.timestamp - joins.since, terms.halfLife);
        return uint64(Math.max(price, terms.floor));
    }

    /// @notice What all joins have burned, in nanoLAI.
    function totalBurned() external view returns (uint64) {
        return _joins.burned;
    }

    // Joining and leaving

    /// @notice Give the next ids to the nodes of `operators`, in order. The caller's LAI is burned for each.
    function register(
        address[] calldata operators,
        address[] calldata signers,
        uint8[] calldata kinds,
        uint16[] calldata clusters
    ) external returns (uint32 first) {
        _sameLength(operators.length, signers.length);
        _sameLength(operators.length, kinds.length);
        _sameLength(operators.length, clusters.length);
        // An empty call would raise nothing and yet set the price anew, from where it decays more slowly.
        if (operators.length == 0) revert NothingToRegister();
        first = count;
        uint256 rise = terms.risePpm;
        uint64 price = registrationPrice();
        uint256 burned = 0;
        for (uint256 i = 0; i < operators.length; i++) {
            _register(first + uint32(i), operators[i], signers[i], kinds[i], clusters[i], price);
            burned += price;
            price = _raise(price, rise);
        }
        count = first + uint32(operators.length);
        // Fewer than 2⁶³ nanoLAI can be burned: if it is more, the token reverts.
        _joins = Joins(price, uint40(block.timestamp), uint64(_joins.burned + burned));
        if (burned != 0) ERC20Burnable(book.get(TOKEN)).burnFrom(msg.sender, burned * NANO_LAI);
    }

    /// @notice Leave for good: the whole bond starts to thaw; what the node has earned stays claimable.
    function deregister(uint32 id) external onlyActiveOperator(id) {
        Node storage it = _nodes[id];
        it.left = true;
        emit NodeDeregistered(id);
        if (it.bond != 0) _thaw(id, it.bond);
    }

    // Describing

    /// @notice Hand the node, its bond and what is done with it to another operator; not while a slash is proposed.
    function setOperator(uint32 id, address operator) external onlyOperator(id) {
        if (operator == address(0)) revert OperatorMissing(id);
        _checkNotFrozen(id);
        _nodes[id].operator = operator;
        emit OperatorSet(id, operator);
    }

    /// @notice Sign with another key. The old one stays good as evidence for as long as a bond takes to thaw.
    function setSigner(uint32 id, address signer) external onlyOperator(id) {
        if (signer == address(0)) revert SignerMissing(id);
        _retiredUntil[id][_nodes[id].signer] = uint40(block.timestamp + terms.thaw);
        _nodes[id].signer = signer;
        emit SignerSet(id, signer);
    }

    function setEndpoint(uint32 id, string calldata endpoint) external onlyActiveOperator(id) {
        uint256 length = bytes(endpoint).length;
        if (length > LONGEST_ENDPOINT) revert EndpointTooLong(length, LONGEST_ENDPOINT);
        endpointOf[id] = endpoint;
        emit EndpointSet(id, endpoint);
    }

    /// @notice Post, or replace, one offer a row: `ids[i]` serves `modelHashes[i]` for these prices. The caller operates them all.
    function postOffers(
        uint32[] calldata ids,
        bytes32[] calldata modelHashes,
        uint8[] calldata variants,
        uint64[] calldata pricesIn,
        uint64[] calldata pricesOut
    ) external {
        _sameLength(ids.length, modelHashes.length);
        _sameLength(ids.length, variants.length);
        _sameLength(ids.length, pricesIn.length);
        _sameLength(ids.length, pricesOut.length);
        for (uint256 i = 0; i < ids.length; i++) {
            _postOffer(ids[i], modelHashes[i], Offer(pricesIn[i], pricesOut[i], variants[i], true));
        }
    }

    function withdrawOffer(uint32 id, bytes32 modelHash) external onlyOperator(id) {
        if (!_offers[id][modelHash].live) revert UnknownOffer(id, modelHash);
        delete _offers[id][modelHash];
        emit OfferWithdrawn(id, modelHash);
    }

    // Bonds

    /// @notice Add the caller's LAI to the bonds of `ids`. Anyone may.
    function bond(uint32[] calldata ids, uint64[] calldata nanoLai) external {
        _sameLength(ids.length, nanoLai.length);
        uint256 total = 0;
        // Nothing can run over its 64 bits: all bonds are backed by tokens, of which there are fewer than 2⁶³ nanoLAI, and a
        // total that is not reverts in the transfer below.
        unchecked {
            for (uint256 i = 0; i < ids.length; i++) {
                (uint32 id, uint64 amount) = (ids[i], nanoLai[i]);
                Node storage it = _known(id);
                if (it.left) revert NodeLeft(id);
                if (amount == 0) revert AmountZero(id);
                it.bond += amount;
                total += amount;
                emit Bonded(id, msg.sender, amount);
            }
            totalBonded += uint64(total);
        }
        IERC20(book.get(TOKEN)).safeTransferFrom(msg.sender, address(this), total * NANO_LAI);
    }

    /// @notice Start to thaw `nanoLai` of the bond; what thaws already starts again with it.
    function unbond(uint32 id, uint64 nanoLai) external onlyOperator(id) {
        if (nanoLai == 0) revert AmountZero(id);
        uint64 bonded = _nodes[id].bond;
        if (nanoLai > bonded) revert BondTooSmall(id, bonded, nanoLai);
        _thaw(id, nanoLai);
    }

    /// @notice Make all that thaws bond again.
    function rebond(uint32 id) external onlyActiveOperator(id) {
        Node storage it = _nodes[id];
        uint64 amount = _takeThawing(id);
        it.bond += amount;
        emit Rebonded(id, amount);
    }

    /// @notice Pay the operator what has thawed.
    function withdrawBond(uint32 id) external onlyOperator(id) {
        uint40 until = _nodes[id].thawedAt;
        uint64 amount = _takeThawing(id);
        if (block.timestamp < until) revert StillThawing(id, until);
        _checkNotFrozen(id);
        totalBonded -= amount;
        emit BondWithdrawn(id, msg.sender, amount);
        IERC20(book.get(TOKEN)).safeTransfer(msg.sender, amount * NANO_LAI);
    }

    // Slashing

    /// @notice Take up to `nanoLai` from a node, from its bond before what thaws; the reporter has its share and the rest burns.
    /// @return taken in nanoLAI. The operator pays first: what its stake does not cover is for StakingPools to ask of delegators.
    function slash(uint32 id, uint64 nanoLai, address reporter, uint32 reporterPpm)
        external
        onlyContract(SLASHING)
        returns (uint64 taken)
    {
        Node storage it = _known(id);
        uint64 fromBond = uint64(Math.min(nanoLai, it.bond));
        uint64 fromThawing = uint64(Math.min(nanoLai - fromBond, it.thawing));
        taken = fromBond + fromThawing;
        uint256 reward = uint256(taken) * reporterPpm / Split.PPM;
        it.bond -= fromBond;
        it.thawing -= fromThawing;
        totalBonded -= taken;
        emit Slashed(id, reporter, taken, uint64(reward));
        ERC20Burnable token = ERC20Burnable(book.get(TOKEN));
        token.burn((taken - reward) * NANO_LAI);
        IERC20(token).safeTransfer(reporter, reward * NANO_LAI);
    }

    /// @notice Keep a node's bond here while a proposal to slash it is open. Another Slashing should be named only when none is.
    function freeze(uint32 id) external onlyContract(SLASHING) {
        emit ProposalsChanged(id, ++_known(id).proposals);
    }

    function unfreeze(uint32 id) external onlyContract(SLASHING) {
        emit ProposalsChanged(id, --_known(id).proposals);
    }

    function _setTerms(Terms memory terms_) private {
        if (terms_.halfLife == 0) revert HalfLifeZero();
        if (terms_.risePpm > Split.PPM) revert RiseTooLarge(terms_.risePpm, uint32(Split.PPM));
        if (terms_.thaw == 0 || terms_.thaw > LONGEST_THAW) revert ThawOutOfRange(terms_.thaw, LONGEST_THAW);
        terms = terms_;
        emit TermsSet(terms_);
    }

    function _register(uint32 id, address operator, address signer, uint8 kind, uint16 cluster, uint64 burned) private {
        if (operator == address(0)) revert OperatorMissing(id);
        if (signer == address(0)) revert SignerMissing(id);
        if (kind >= KINDS) revert KindUnknown(kind);
        Node storage it = _nodes[id];
        (it.operator, it.cluster, it.kind) = (operator, cluster, kind);
        it.signer = signer;
        emit NodeRegistered(id, operator, signer, kind, cluster, burned);
    }

    /// @dev A price that 64 bits do not hold stays at their end, which nobody can pay: joining waits until it has decayed.
    function _raise(uint64 price, uint256 risePpm) private pure returns (uint64) {
        return uint64(Math.min(price + Math.ceilDiv(price * risePpm, Split.PPM), type(uint64).max));
    }

    function _postOffer(uint32 id, bytes32 modelHash, Offer memory posted) private onlyActiveOperator(id) {
        _offers[id][modelHash] = posted;
        emit OfferPosted(id, modelHash, posted.variant, posted.priceIn, posted.priceOut);
    }

    function _thaw(uint32 id, uint64 nanoLai) private {
        Node storage it = _nodes[id];
        uint40 thawedAt = uint40(block.timestamp + terms.thaw);
        it.bond -= nanoLai;
        it.thawing += nanoLai;
        it.thawedAt = thawedAt;
        emit Unbonded(id, nanoLai, thawedAt);
    }

    function _takeThawing(uint32 id) private returns (uint64 amount) {
        amount = _nodes[id].thawing;
        if (amount == 0) revert NothingThawed(id);
        _nodes[id].thawing = 0;
    }

    function _known(uint32 id) private view returns (Node storage it) {
        it = _nodes[id];
        if (it.operator == address(0)) revert UnknownNode(id);
    }

    function _checkOperator(uint32 id) private view {
        if (msg.sender != _known(id).operator) revert NotOperator(id, msg.sender);
    }

    function _checkActiveOperator(uint32 id) private view {
        _checkOperator(id);
        if (_nodes[id].left) revert NodeLeft(id);
    }

    function _checkNotFrozen(uint32 id) private view {
        uint32 proposals = _nodes[id].proposals;
        if (proposals != 0) revert Frozen(id, proposals);
    }
}
