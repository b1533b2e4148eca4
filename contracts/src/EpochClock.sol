// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

/// @notice When epochs begin and end, and until when each may be settled by batch and then collected by voucher.
///
///     | epoch | grace: the batch settles it | collection: vouchers are presented | they are paid | closed
///
/// A voucher waits for the grace of the epoch in which it is presented, so that no batch finds the escrow emptied before it.
contract EpochClock {
    /// @notice Most epochs of grace and collection together, so that a user's bitmap still knows the oldest of them.
    uint256 public constant LONGEST = 63;

    /// @notice Unix time at which epoch 0 began.
    uint64 public immutable start;
    /// @notice Seconds in an epoch.
    uint64 public immutable length;
    /// @notice Epochs after an epoch's end in which its batch may settle.
    uint32 public immutable grace;
    /// @notice Epochs after the grace in which its vouchers may be presented.
    uint32 public immutable collection;

    error EpochLengthZero();
    error WindowsTooLong(uint256 epochs, uint256 longest);

    constructor(uint64 start_, uint64 length_, uint32 grace_, uint32 collection_) {
        if (length_ == 0) revert EpochLengthZero();
        uint256 windows = uint256(grace_) + collection_;
        if (windows > LONGEST) revert WindowsTooLong(windows, LONGEST);
        start = start_;
        length = length_;
        grace = grace_;
        collection = collection_;
    }

    /// @notice The epoch that it is now.
    function current() public view returns (uint32) {
        return uint32((block.timestamp - start) / length);
    }

    /// @notice Unix time at which `epoch` ends.
    function endOf(uint32 epoch) public view returns (uint256) {
        return start + (uint256(epoch) + 1) * length;
    }

    /// @notice Whether a batch may settle `epoch` now.
    function settles(uint32 epoch) external view returns (bool) {
        return block.timestamp >= endOf(epoch) && block.timestamp < _endOfGrace(epoch);
    }

    /// @notice Whether no batch may settle `epoch` any more.
    function lapsed(uint32 epoch) public view returns (bool) {
        return block.timestamp >= _endOfGrace(epoch);
    }

    /// @notice Whether vouchers of `epoch` may be presented now.
    function collects(uint32 epoch) external view returns (bool) {
        return lapsed(epoch) && block.timestamp < _endOfGrace(epoch) + uint256(collection) * length;
    }

    /// @notice Whether nothing can be charged for `epoch` any more: its last voucher has waited, and then had an epoch to be paid.
    function closed(uint32 epoch) external view returns (bool) {
        return block.timestamp >= _endOfGrace(epoch) + (uint256(collection) + grace + 1) * length;
    }

    function _endOfGrace(uint32 epoch) private view returns (uint256) {
        return endOf(epoch) + uint256(grace) * length;
    }
}
