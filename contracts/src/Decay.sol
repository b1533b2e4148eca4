// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

/// @notice A value that halves every half-life, along straight lines between the halvings.
library Decay {
    /// @dev From so many halvings on nothing is left of 64 bits.
    uint256 private constant HALVINGS = 64;

    /// @param value of at most 64 bits
    /// @param elapsed in the unit of `halfLife`, which is not zero
    function decayed(uint256 value, uint256 elapsed, uint256 halfLife) internal pure returns (uint256) {
        uint256 halvings = elapsed / halfLife;
        if (halvings >= HALVINGS) return 0;
        uint256 halved = value >> halvings;
        return halved - halved * (elapsed % halfLife) / (2 * halfLife);
    }
}
