// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";
import {ERC20Burnable} from "@openzeppelin/contracts/token/ERC20/extensions/ERC20Burnable.sol";
import {ERC20Permit} from "@openzeppelin/contracts/token/ERC20/extensions/ERC20Permit.sol";
import {ERC20Votes} from "@openzeppelin/contracts/token/ERC20/extensions/ERC20Votes.sol";
import {Nonces} from "@openzeppelin/contracts/utils/Nonces.sol";
import {Time} from "@openzeppelin/contracts/utils/types/Time.sol";
import {AddressBook} from "./AddressBook.sol";
import {NANO_LAI, TOKENOMICS, Wired} from "./Wired.sol";

/// @notice LAI: what ever is minted stays below the cap, however much is burned. Votes are counted by time, not by block.
/// Only the network's contracts move LAI into one of them: what a stranger sent would be lost, and no contract would owe it.
contract LAIToken is ERC20Burnable, ERC20Permit, ERC20Votes, Wired {
    /// @notice Largest total ever minted, in wei.
    uint256 public immutable cap;
    /// @notice Total ever minted, in wei.
    uint256 public minted;

    error CapTooLarge(uint256 cap, uint256 largest);
    error CapExceeded(uint256 amount, uint256 left);
    error SentToContract(address to);

    /// @param holder receives the genesis supply, in wei, of which there is no second
    constructor(AddressBook book_, address holder, uint256 genesis, uint256 cap_)
        ERC20("Lattice", "LAI")
        ERC20Permit("Lattice")
        Wired(book_)
    {
        // Every balance, and every sum of balances, is an int64 of nanoLAI off chain and a uint64 in the packed slots.
        uint256 largest = uint256(uint64(type(int64).max)) * NANO_LAI;
        if (cap_ > largest) revert CapTooLarge(cap_, largest);
        cap = cap_;
        _mintCapped(holder, genesis);
    }

    function mint(address to, uint256 amount) external onlyContract(TOKENOMICS) {
        _mintCapped(to, amount);
    }

    /// @notice Total ever burned, in wei.
    function burned() external view returns (uint256) {
        return minted - totalSupply();
    }

    function clock() public view override returns (uint48) {
        return Time.timestamp();
    }

    function CLOCK_MODE() public pure override returns (string memory) {
        return "mode=timestamp";
    }

    function nonces(address owner) public view override(ERC20Permit, Nonces) returns (uint256) {
        return super.nonces(owner);
    }

    function _update(address from, address to, uint256 amount) internal override(ERC20, ERC20Votes) {
        if (book.isContract(to) && !book.isContract(msg.sender)) revert SentToContract(to);
        super._update(from, to, amount);
    }

    function _mintCapped(address to, uint256 amount) private {
        if (amount > cap - minted) revert CapExceeded(amount, cap - minted);
        minted += amount;
        _mint(to, amount);
    }
}
