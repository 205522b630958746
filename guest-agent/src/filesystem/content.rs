//! The bytes of a regular file: pages of its own over the bytes of an image, holes where neither
//! is.
//!
//! ```text
//!   own pages      [ ]     [#]     [ ]     [#]      written since
//!   lower          [aaaaaaaaaaaaaaaaa]              up to `lower_bytes`, from the image
//!   read           [a]     [#]     [a0]    [#]      and zeros elsewhere, up to `bytes`
//! ```

use alloc::collections::BTreeMap;
use alloc::rc::Rc;
use alloc::vec::Vec;

use abi::layout::PAGE_BYTES;
use machine::frame::Frame;

use super::image::{Data, Image};
use crate::errno::Errno;
use crate::file::FilePage;
use crate::memory::transfer::{Sink, Source};
use crate::memory::{Account, PAGE};

#[derive(Debug)]
struct Lower {
    image: Rc<Image>,
    data: Data,
}

impl Lower {
    fn bytes(&self) -> &[u8] {
        self.image.bytes(&self.data)
    }
}

/// A file's bytes. Pages it owns are charged to the account and released with it.
#[derive(Debug)]
pub struct Content {
    lower: Option<Lower>,
    lower_bytes: u64,
    pages: BTreeMap<u64, Frame>,
    bytes: u64,
    account: Rc<Account>,
}

/// A file's bytes as they were. Its own pages stay the same frames, which a mapping may share.
#[derive(Debug)]
pub struct SavedContent {
    /// Number, frame, and what the frame held.
    pages: Vec<(u64, Frame, Frame)>,
    lower_bytes: u64,
    bytes: u64,
}

impl Content {
    /// Saves what it is.
    ///
    /// # Errors
    /// [`Errno::NOMEM`] when RAM is used up.
    pub fn save(&self) -> Result<SavedContent, Errno> {
        let mut pages = Vec::new();
        for (number, frame) in &self.pages {
            let copy = Frame::uninitialised().ok_or(Errno::NOMEM)?;
            copy.copy_from(frame);
            pages.push((*number, frame.clone(), copy));
        }
        Ok(SavedContent { pages, lower_bytes: self.lower_bytes, bytes: self.bytes })
    }

    /// Makes it what was saved.
    ///
    /// # Errors
    /// [`Errno::NOMEM`] when its pages cannot be paid for.
    pub fn put_back(&mut self, saved: &SavedContent) -> Result<(), Errno> {
        self.account.release(self.pages.len() as u64);
        self.pages.clear();
        self.account.charge(saved.pages.len() as u64)?;
        for (number, frame, copy) in &saved.pages {
            frame.copy_from(copy);
            self.pages.insert(*number, frame.clone());
        }
        (self.lower_bytes, self.bytes) = (saved.lower_bytes, saved.bytes);
        Ok(())
    }

    /// An empty file.
    #[must_use]
    pub fn empty(account: Rc<Account>) -> Self {
        Self { lower: None, lower_bytes: 0, pages: BTreeMap::new(), bytes: 0, account }
    }

    /// A file that shows an image's until it is written.
    #[must_use]
    pub fn over(image: Rc<Image>, data: Data, account: Rc<Account>) -> Self {
        let bytes = image.bytes(&data).len() as u64;
        let lower = Some(Lower { image, data });
        Self { lower, lower_bytes: bytes, pages: BTreeMap::new(), bytes, account }
    }

    /// Its length.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// 512-byte units it takes, as `stat` counts.
    #[must_use]
    pub fn blocks(&self) -> u64 {
        (self.lower_bytes.div_ceil(PAGE_BYTES)).max(self.pages.len() as u64) * (PAGE_BYTES / 512)
    }

    /// Reads from `offset`: 0 at the end.
    ///
    /// # Errors
    /// [`Errno::FAULT`] when the sink cannot be written.
    pub fn read(&self, offset: u64, sink: &mut Sink<'_>) -> Result<usize, Errno> {
        let mut at = offset;
        while at < self.bytes && sink.remaining() > 0 {
            let put = match self.read_part(at, sink) {
                Ok(put) => put,
                Err(error) if at == offset => return Err(error),
                Err(_) => break,
            };
            at += put as u64;
            if put == 0 {
                break;
            }
        }
        Ok(usize::try_from(at.saturating_sub(offset)).unwrap_or(usize::MAX))
    }

    /// Reads a piece that comes from one place.
    fn read_part(&self, at: u64, sink: &mut Sink<'_>) -> Result<usize, Errno> {
        let left = self.bytes - at;
        if self.pages.is_empty() && at < self.lower_bytes {
            return sink.put(self.lower_at(at, self.lower_bytes - at));
        }
        let (page, within) = (at / PAGE_BYTES, offset_in_page(at));
        let count = left.min((PAGE - within) as u64);
        if let Some(frame) = self.pages.get(&page) {
            let mut bytes = [0; PAGE];
            let bytes = &mut bytes[..usize::try_from(count).unwrap_or(PAGE)];
            frame.read(within, bytes);
            return sink.put(bytes);
        }
        if at < self.lower_bytes {
            return sink.put(self.lower_at(at, count.min(self.lower_bytes - at)));
        }
        sink.fill(usize::try_from(count).unwrap_or(PAGE), 0)
    }

    /// Writes at `offset`, growing the file as needed. Short when memory runs out on the way.
    ///
    /// # Errors
    /// [`Errno::NOSPC`] when the account has no page left, [`Errno::FBIG`] past the largest
    /// position, [`Errno::FAULT`] when the source cannot be read; nothing is written then.
    pub fn write(
        cell: &core::cell::RefCell<Self>,
        offset: u64,
        source: &mut Source<'_>,
    ) -> Result<usize, Errno> {
        let mut at = offset;
        while source.remaining() > 0 {
            let within = offset_in_page(at);
            let mut bytes = [0; PAGE];
            let count = source.remaining().min(PAGE - within);
            // Taking may fault a page of this very file in: the content is not borrowed then.
            let written = source.take(&mut bytes[..count]).and_then(|taken| {
                cell.borrow_mut().write_page(at, &bytes[..taken]).map(|()| taken)
            });
            match written {
                Ok(taken) => at += taken as u64,
                Err(error) if at == offset => return Err(error),
                Err(_) => break,
            }
        }
        Ok(usize::try_from(at - offset).unwrap_or(usize::MAX))
    }

    /// Writes bytes that lie in one page.
    fn write_page(&mut self, at: u64, bytes: &[u8]) -> Result<(), Errno> {
        let end = at.checked_add(bytes.len() as u64).ok_or(Errno::FBIG)?;
        if i64::try_from(end).is_err() {
            return Err(Errno::FBIG);
        }
        self.own_page(at / PAGE_BYTES)?.write(offset_in_page(at), bytes);
        self.bytes = self.bytes.max(end);
        Ok(())
    }

    /// A share of the file's own page at `offset`.
    ///
    /// # Errors
    /// [`Errno::NOSPC`] when it has to be made and the account has no page left.
    pub fn share_page(&mut self, offset: u64) -> Result<Frame, Errno> {
        self.own_page(offset / PAGE_BYTES).cloned()
    }

    /// The file's own page, made from what is read there now.
    fn own_page(&mut self, page: u64) -> Result<&Frame, Errno> {
        if !self.pages.contains_key(&page) {
            self.account.charge(1).map_err(|_| Errno::NOSPC)?;
            let Some(frame) = Frame::zeroed() else {
                self.account.release(1);
                return Err(Errno::NOSPC);
            };
            let start = page * PAGE_BYTES;
            if start < self.lower_bytes {
                frame.write(0, self.lower_at(start, PAGE_BYTES.min(self.lower_bytes - start)));
            }
            self.pages.insert(page, frame);
        }
        self.pages.get(&page).ok_or(Errno::IO)
    }

    /// Sets the length: what is cut off is gone, what is added reads as zeros.
    ///
    /// # Errors
    /// [`Errno::NOSPC`] when the page the end lies in has to be copied and cannot be.
    pub fn truncate(&mut self, bytes: u64) -> Result<(), Errno> {
        if bytes < self.bytes {
            let within = offset_in_page(bytes);
            let first_gone = bytes.div_ceil(PAGE_BYTES);
            let gone = self.pages.split_off(&first_gone);
            self.account.release(gone.len() as u64);
            if within > 0
                && let Some(frame) = self.pages.get(&(bytes / PAGE_BYTES))
            {
                frame.zero_range(within, PAGE - within);
            }
            self.lower_bytes = self.lower_bytes.min(bytes);
        }
        self.bytes = bytes;
        Ok(())
    }

    /// How the page at `offset` can be mapped.
    #[must_use]
    pub fn map_page(&self, offset: u64) -> FilePage {
        let is_lower = !self.pages.contains_key(&(offset / PAGE_BYTES))
            && offset.saturating_add(PAGE_BYTES) <= self.lower_bytes;
        let lower = self.lower.as_ref().filter(|_| is_lower);
        let address = lower.and_then(|lower| lower.image.window_page(&lower.data, offset));
        address.map_or(FilePage::Bytes, FilePage::Window)
    }

    fn lower_at(&self, at: u64, count: u64) -> &[u8] {
        let bytes = self.lower.as_ref().map(Lower::bytes).unwrap_or_default();
        let start = usize::try_from(at).unwrap_or(usize::MAX);
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        bytes.get(start..start.saturating_add(count)).unwrap_or_default()
    }
}

impl Drop for Content {
    fn drop(&mut self) {
        self.account.release(self.pages.len() as u64);
    }
}

fn offset_in_page(at: u64) -> usize {
    (at % PAGE_BYTES) as usize
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "tests run on 64-bit hosts")]
mod tests {
    use core::cell::RefCell;
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;
    use crate::filesystem::image::{Archive, Builder};

    fn lower(bytes: &[u8]) -> (Rc<Image>, Data) {
        let image = Builder::new().finish(Archive::Owned(Vec::new()), 1);
        (Rc::new(image), Data::Own(bytes.into()))
    }

    fn read(content: &Content, offset: u64, count: usize) -> Vec<u8> {
        let mut bytes = std::vec![9; count];
        let read = content.read(offset, &mut Sink::kernel(&mut bytes)).unwrap();
        bytes.truncate(read);
        bytes
    }

    #[derive(Clone, Debug)]
    enum Step {
        Write(u64, Vec<u8>),
        Truncate(u64),
        Read(u64, usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        let bytes = prop::collection::vec(any::<u8>(), 0..6000);
        prop_oneof![
            (0..20_000_u64, bytes).prop_map(|(at, bytes)| Step::Write(at, bytes)),
            (0..20_000_u64).prop_map(Step::Truncate),
            (0..25_000_u64, 0..9000_usize).prop_map(|(at, count)| Step::Read(at, count)),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
        #[test]
        fn it_behaves_like_a_vector_of_bytes(
            start in prop::collection::vec(any::<u8>(), 0..12_000),
            steps in prop::collection::vec(step(), 1..30),
        ) {
            machine_ready();
            let account = Account::new(1 << 30);
            let (image, data) = lower(&start);
            let content = RefCell::new(Content::over(image, data, Rc::clone(&account)));
            let mut model = start;
            for step in steps {
                match step {
                    Step::Write(at, bytes) => {
                        let end = at as usize + bytes.len();
                        if !bytes.is_empty() {
                            model.resize(model.len().max(end), 0);
                            model[at as usize..end].copy_from_slice(&bytes);
                        }
                        let written = Content::write(&content, at, &mut Source::kernel(&bytes));
                        prop_assert_eq!(written, Ok(bytes.len()));
                    }
                    Step::Truncate(bytes) => {
                        model.resize(bytes as usize, 0);
                        content.borrow_mut().truncate(bytes).unwrap();
                    }
                    Step::Read(at, count) => {
                        let start = model.len().min(at as usize);
                        let end = model.len().min(start + count);
                        prop_assert_eq!(read(&content.borrow(), at, count), &model[start..end]);
                    }
                }
                prop_assert_eq!(content.borrow().bytes(), model.len() as u64);
            }
            prop_assert_eq!(read(&content.borrow(), 0, 50_000), model);
            drop(content);
            prop_assert_eq!(account.used_bytes(), 0);
        }
    }

    #[test]
    fn a_full_account_ends_a_write_early() {
        machine_ready();
        let account = Account::new(2 * PAGE_BYTES);
        let content = RefCell::new(Content::empty(Rc::clone(&account)));
        let bytes = std::vec![5; 3 * PAGE];
        let written = Content::write(&content, 100, &mut Source::kernel(&bytes));
        assert_eq!(written, Ok(2 * PAGE - 100));
        let more = Content::write(&content, 2 * PAGE_BYTES, &mut Source::kernel(b"x"));
        assert_eq!(more, Err(Errno::NOSPC));
        let far = Content::write(&content, i64::MAX as u64, &mut Source::kernel(b"x"));
        assert_eq!(far, Err(Errno::FBIG));
        content.borrow_mut().truncate(PAGE_BYTES + 1).unwrap();
        assert_eq!(account.used_bytes(), 2 * PAGE_BYTES);
        content.borrow_mut().truncate(1).unwrap();
        assert_eq!(account.used_bytes(), PAGE_BYTES);
        content.borrow_mut().truncate(4000).unwrap();
        assert_eq!(read(&content.borrow(), 0, 4000), std::vec![0; 4000]);
    }

    #[test]
    fn a_written_page_is_no_longer_mapped_from_the_window() {
        machine_ready();
        let bytes: &'static [u8] = std::vec![1; 16_384].leak();
        let archive = Archive::Window { offset: 0, bytes };
        let image = Rc::new(Builder::new().finish(archive, 1));
        let data = Data::Archive { start: 4096, bytes: 8192 };
        let content = RefCell::new(Content::over(image, data, Account::new(1 << 20)));
        assert!(matches!(content.borrow().map_page(4096), FilePage::Window(_)));
        Content::write(&content, 5000, &mut Source::kernel(b"x")).unwrap();
        assert_eq!(content.borrow().map_page(4096), FilePage::Bytes);
        assert!(matches!(content.borrow().map_page(0), FilePage::Window(_)));
        assert_eq!(content.borrow().map_page(8192), FilePage::Bytes);
        assert_eq!(read(&content.borrow(), 4999, 3), [1, b'x', 1]);
    }

    fn machine_ready() {
        crate::filesystem::tree::tests::machine_ready();
    }
}
