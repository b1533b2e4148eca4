// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

/// @notice How a gross fee is cut: burn, treasury, auditors, delegators, and the operator takes the rest.
library Split {
    uint256 internal constant PPM = 1e6;

    /// @notice Shares in parts per million, each of what the earlier cuts left.
    struct Rates {
        uint32 burn;
        uint32 treasury;
        uint32 auditors;
        uint32 delegators;
        /// @notice nanoLAI that the treasury may claim before its share falls to zero.
        uint64 treasuryCeiling;
    }

    /// @notice Parts of a gross fee, in nanoLAI.
    struct Cuts {
        uint256 burned;
        uint256 treasury;
        uint256 auditors;
        uint256 delegators;
        uint256 operators;
    }

    error RateTooLarge(uint256 ppm);

    function check(Rates memory rates) internal pure {
        _check(rates.burn);
        _check(rates.treasury);
        _check(rates.auditors);
        _check(rates.delegators);
    }

    function _check(uint32 ppm) private pure {
        if (ppm > PPM) revert RateTooLarge(ppm);
    }

    /// @dev Adds the parts of `gross`, which fits 64 bits, to `into`, and returns those that are its node's, or count for it.
    function add(Cuts memory into, uint256 gross, Rates memory rates)
        internal
        pure
        returns (uint256 operator, uint256 delegators, uint256 burned)
    {
        // A cut is at most the rest, as its rate is at most the whole.
        unchecked {
            burned = share(gross, rates.burn);
            into.burned += burned;
            operator = gross - burned;
            uint256 part = share(operator, rates.treasury);
            into.treasury += part;
            operator -= part;
            part = share(operator, rates.auditors);
            into.auditors += part;
            operator -= part;
            delegators = share(operator, rates.delegators);
            into.delegators += delegators;
            operator -= delegators;
            into.operators += operator;
        }
    }

    /// @dev ⌈rate · rest⌉, of a rest that fits 64 bits.
    function share(uint256 rest, uint256 ppm) internal pure returns (uint256) {
        unchecked {
            return (ppm * rest + PPM - 1) / PPM;
        }
    }
}
