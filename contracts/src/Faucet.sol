// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {Claims} from "./Claims.sol";
import {Decay} from "./Decay.sol";
import {UserRegistry} from "./UserRegistry.sol";
import {FAUCET, NANO_LAI, TOKEN, USERS} from "./Wired.sol";

/// @notice Credit for newcomers that can only be spent: the treasury's LAI, within one budget for all that melts away.
abstract contract Faucet is Claims, ReentrancyGuardTransient {
    using SafeERC20 for IERC20;

    /// @notice `left` nanoLAI could be granted at Unix time `since`; half as many each `halfLife` seconds later.
    struct Budget {
        uint64 left;
        uint40 since;
        uint32 halfLife;
    }

    Budget public budget;

    event BudgetSet(uint64 left, uint32 halfLife);
    event Granted(uint64 nanoLai, uint64 left);

    error HalfLifeZero();
    error BudgetExceeded(uint256 asked, uint64 left);

    function setBudget(uint64 left, uint32 halfLife) external onlyOwner {
        if (halfLife == 0) revert HalfLifeZero();
        budget = Budget(left, uint40(block.timestamp), halfLife);
        emit BudgetSet(left, halfLife);
    }

    /// @notice nanoLAI that may be granted now.
    function budgetLeft() public view returns (uint64) {
        Budget memory b = budget;
        return b.left == 0 ? 0 : uint64(Decay.decayed(b.left, block.timestamp - b.since, b.halfLife));
    }

    /// @notice Move LAI of the treasury into escrow as credit of `users`.
    function grantFaucet(uint32[] calldata users, uint64[] calldata nanoLai) external onlyRole(FAUCET) nonReentrant {
        uint64 left = budgetLeft();
        UserRegistry registry = UserRegistry(book.get(USERS));
        uint256 total = registry.grantFaucet(users, nanoLai);
        if (total > left) revert BudgetExceeded(total, left);
        uint64 owed = claims.treasury;
        if (total > owed) revert AmountNotOwed(uint64(total), owed);
        budget.left = left - uint64(total);
        budget.since = uint40(block.timestamp);
        claims.treasury = owed - uint64(total);
        emit Granted(uint64(total), left - uint64(total));
        IERC20(book.get(TOKEN)).safeTransfer(address(registry), total * NANO_LAI);
    }
}
