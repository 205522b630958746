//! How many pages a container holds: its processes' memory, their page tables and its tmpfs.

use alloc::rc::Rc;
use core::cell::Cell;

use crate::errno::Errno;
use abi::layout::PAGE_BYTES;

/// A container's pages against its limit. Shared by its processes and its file system.
#[derive(Debug)]
pub struct Account {
    limit_pages: u64,
    used_pages: Cell<u64>,
    peak_pages: Cell<u64>,
}

impl Account {
    /// An account nothing is charged to yet.
    #[must_use]
    pub fn new(limit_bytes: u64) -> Rc<Self> {
        Rc::new(Self {
            limit_pages: limit_bytes / PAGE_BYTES,
            used_pages: Cell::new(0),
            peak_pages: Cell::new(0),
        })
    }

    /// Takes `pages` pages.
    ///
    /// # Errors
    /// [`Errno::NOMEM`] past the limit; nothing is charged then.
    pub fn charge(&self, pages: u64) -> Result<(), Errno> {
        let used = self.used_pages.get().checked_add(pages).ok_or(Errno::NOMEM)?;
        if used > self.limit_pages {
            return Err(Errno::NOMEM);
        }
        self.used_pages.set(used);
        self.peak_pages.set(self.peak_pages.get().max(used));
        Ok(())
    }

    /// Gives `pages` pages back.
    pub fn release(&self, pages: u64) {
        debug_assert!(pages <= self.used_pages.get(), "no more is released than was charged");
        self.used_pages.set(self.used_pages.get().saturating_sub(pages));
    }

    /// Bytes in use.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.used_pages.get() * PAGE_BYTES
    }

    /// Most bytes in use at once since [`Account::reset_peak`].
    #[must_use]
    pub fn peak_bytes(&self) -> u64 {
        self.peak_pages.get() * PAGE_BYTES
    }

    /// The limit in bytes.
    #[must_use]
    pub fn limit_bytes(&self) -> u64 {
        self.limit_pages * PAGE_BYTES
    }

    /// Starts a new peak at what is in use now.
    pub fn reset_peak(&self) {
        self.peak_pages.set(self.used_pages.get());
    }
}

/// Memory of the kernel that a container pays for, until dropped.
#[derive(Debug)]
pub struct Charge {
    account: Rc<Account>,
    pages: u64,
}

impl Charge {
    /// Pays for `bytes` bytes.
    ///
    /// # Errors
    /// [`Errno::NOMEM`] past the limit.
    pub fn new(account: &Rc<Account>, bytes: usize) -> Result<Self, Errno> {
        let pages = (bytes as u64).div_ceil(PAGE_BYTES);
        account.charge(pages)?;
        Ok(Self { account: Rc::clone(account), pages })
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.account.release(self.pages);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_charge_past_the_limit_changes_nothing() {
        let account = Account::new(3 * PAGE_BYTES + 1);
        assert_eq!(account.charge(2), Ok(()));
        assert_eq!(account.charge(2), Err(Errno::NOMEM));
        assert_eq!(account.charge(1), Ok(()));
        account.release(3);
        assert_eq!((account.used_bytes(), account.peak_bytes()), (0, 3 * PAGE_BYTES));
        let charge = Charge::new(&account, 4097).unwrap();
        assert_eq!(account.used_bytes(), 2 * PAGE_BYTES);
        assert_eq!(Charge::new(&account, 4097).err(), Some(Errno::NOMEM));
        drop(charge);
        assert_eq!(account.used_bytes(), 0);
    }
}
