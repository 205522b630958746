//! Open files: what a descriptor refers to, and the table of descriptors of a process.
//!
//! ```text
//!  syscall ─► Descriptors ─► OpenFile (flags, position) ─► dyn Object: regular file, directory,
//!                                                           pipe, event counter, epoll, device,
//!                                                           socket, program stream
//! ```
//! Nothing here ever waits: an operation that would have to answers [`Errno::AGAIN`], whatever
//! `O_NONBLOCK` says. Whoever called waits for one of the file's notifiers and tries again. An
//! object raises its notifier whenever its readiness may have grown, also when it is dropped.

pub mod epoll;
pub mod descriptors;
pub mod event_counter;
pub mod timer;
pub mod pipe;
pub mod device;
pub mod byte_queue;
pub mod flags;
pub mod stat;

use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::any::Any;
use core::cell::Cell;

use machine::frame::Frame;

use crate::errno::Errno;
use crate::memory::transfer::{Sink, Source};
use crate::world::ObjectId;

pub use crate::world::Notifier;

pub use descriptors::Descriptors;
pub use epoll::Epoll;
pub use event_counter::eventfd;
pub use pipe::pipe;
pub use stat::Stat;
pub use timer::Timer;

use flags::ready;

/// One page of a file as a mapping needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FilePage {
    /// The page lies in the image window at this guest-physical address and can be mapped
    /// read-only where it is.
    Window(u64),
    /// The page has to be read.
    Bytes,
}

/// One entry of a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirectoryEntry<'a> {
    /// Number of the file.
    pub inode: u64,
    /// Position to seek to in order to go on behind this entry.
    pub next_offset: u64,
    /// A `DT_*` number (`file::stat::kind`).
    pub kind: u8,
    /// Its name, without a NUL.
    pub name: &'a [u8],
}

/// What an open file can do. The defaults are those of something that cannot.
pub trait Object: Any {
    /// Takes bytes from a stream: 0 at its end.
    ///
    /// # Errors
    /// [`Errno::AGAIN`] when there are none yet.
    fn read(&self, _sink: &mut Sink<'_>) -> Result<usize, Errno> {
        Err(Errno::INVAL)
    }

    /// Puts bytes into a stream.
    ///
    /// # Errors
    /// [`Errno::AGAIN`] when there is no room, [`Errno::PIPE`] when nobody will read them.
    fn write(&self, _source: &mut Source<'_>) -> Result<usize, Errno> {
        Err(Errno::INVAL)
    }

    /// Reads at a position.
    ///
    /// # Errors
    /// [`Errno::SPIPE`] when it has no positions.
    fn read_at(&self, _offset: u64, _sink: &mut Sink<'_>) -> Result<usize, Errno> {
        Err(Errno::SPIPE)
    }

    /// Writes at a position.
    ///
    /// # Errors
    /// [`Errno::SPIPE`] when it has no positions.
    fn write_at(&self, _offset: u64, _source: &mut Source<'_>) -> Result<usize, Errno> {
        Err(Errno::SPIPE)
    }

    /// Its length when it has positions; `None` for a stream.
    fn length(&self) -> Option<u64> {
        None
    }

    /// `POLL*` bits that are true now ([`flags::ready`]).
    fn readiness(&self) -> u32 {
        ready::IN | ready::OUT
    }

    /// Shows the notifiers whose raise may change [`Object::readiness`].
    fn notifiers(&self, _visit: &mut dyn FnMut(&Notifier)) {}

    /// What `fstat` says.
    ///
    /// # Errors
    /// When the file cannot tell.
    fn stat(&self) -> Result<Stat, Errno>;

    /// Sets the length.
    ///
    /// # Errors
    /// [`Errno::INVAL`] when it has none.
    fn truncate(&self, _bytes: u64) -> Result<(), Errno> {
        Err(Errno::INVAL)
    }

    /// Bytes that can be read without waiting (`FIONREAD`).
    ///
    /// # Errors
    /// [`Errno::NOTTY`] when that has no meaning here.
    fn readable_bytes(&self) -> Result<usize, Errno> {
        Err(Errno::NOTTY)
    }

    /// Shows directory entries from `offset` until the visitor says `false`; returns the offset
    /// behind the last one taken.
    ///
    /// # Errors
    /// [`Errno::NOTDIR`] when it is no directory.
    fn read_directory(
        &self,
        _offset: u64,
        _visit: &mut dyn FnMut(&DirectoryEntry<'_>) -> bool,
    ) -> Result<u64, Errno> {
        Err(Errno::NOTDIR)
    }

    /// How the page at `offset` can be mapped.
    ///
    /// # Errors
    /// [`Errno::NODEV`] when the file cannot be mapped.
    fn map_page(&self, _offset: u64) -> Result<FilePage, Errno> {
        Err(Errno::NODEV)
    }

    /// A share of the file's own page at `offset`, to be mapped so that stores reach the file.
    ///
    /// # Errors
    /// [`Errno::NODEV`] when the file has no pages that could change, [`Errno::NOSPC`].
    fn share_page(&self, _offset: u64) -> Result<Frame, Errno> {
        Err(Errno::NODEV)
    }

    /// What `/proc/self/fd` shows for it.
    fn path(&self) -> Vec<u8>;

    /// Notes what it is now; what is returned puts it back to that. `None` when it cannot be put
    /// back: something outside the VM has its part of it.
    fn keep(self: Rc<Self>) -> Option<Keeping> {
        None
    }
}

/// Puts an object back to what it was when it was kept.
pub type Keeping = Box<dyn Fn()>;

/// Of an object that never changes, or whose state is kept elsewhere.
#[must_use]
pub fn nothing_to_keep() -> Option<Keeping> {
    Some(Box::new(|| ()))
}

/// An open file description: shared by the descriptors made from one another by `dup` and `fork`.
pub struct OpenFile {
    object: Rc<dyn Object>,
    flags: Cell<u32>,
    position: Cell<u64>,
}

impl core::fmt::Debug for OpenFile {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        formatter.debug_struct("OpenFile").field("flags", &self.flags).finish_non_exhaustive()
    }
}

impl OpenFile {
    /// A description of `object` with the `O_*` status flags `flags`.
    #[must_use]
    pub fn new(object: Rc<dyn Object>, flags: u32) -> Rc<Self> {
        let flags = flags & flags::KEPT;
        Rc::new(Self { object, flags: Cell::new(flags), position: Cell::new(0) })
    }

    /// Where the next read or write without a position goes.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.position.get()
    }

    /// The object as the type `T`, if it is one.
    #[must_use]
    pub fn object<T: Object>(&self) -> Option<&T> {
        let object: &dyn Any = &*self.object;
        object.downcast_ref()
    }

    /// The object behind it, to be opened a second time.
    #[must_use]
    pub fn shared_object(&self) -> Rc<dyn Object> {
        Rc::clone(&self.object)
    }

    /// Reads where the last read or write ended: 0 at the end of the file.
    ///
    /// # Errors
    /// [`Errno::AGAIN`] when it would have to wait; [`Errno::BADF`] when not open for reading.
    pub fn read(&self, sink: &mut Sink<'_>) -> Result<usize, Errno> {
        self.check_reads()?;
        if self.object.length().is_none() {
            return self.object.read(sink);
        }
        let position = self.position.get();
        let count = self.object.read_at(position, sink)?;
        self.position.set(position.saturating_add(count as u64));
        Ok(count)
    }

    /// Writes where the last read or write ended, or at the end with `O_APPEND`.
    ///
    /// # Errors
    /// [`Errno::AGAIN`] when it would have to wait; [`Errno::BADF`] when not open for writing;
    /// [`Errno::PIPE`] when nobody will read it.
    pub fn write(&self, source: &mut Source<'_>) -> Result<usize, Errno> {
        self.check_writes()?;
        let Some(length) = self.object.length() else {
            return self.object.write(source);
        };
        let appends = self.flags.get() & flags::APPEND != 0;
        let position = if appends { length } else { self.position.get() };
        let count = self.object.write_at(position, source)?;
        self.position.set(position.saturating_add(count as u64));
        Ok(count)
    }

    /// Reads at `offset` and leaves the position alone.
    ///
    /// # Errors
    /// [`Errno::SPIPE`] for a stream, else as [`OpenFile::read`].
    pub fn read_at(&self, offset: u64, sink: &mut Sink<'_>) -> Result<usize, Errno> {
        self.check_reads()?;
        check_offset(offset)?;
        self.object.read_at(offset, sink)
    }

    /// Writes at `offset` and leaves the position alone.
    ///
    /// # Errors
    /// [`Errno::SPIPE`] for a stream, else as [`OpenFile::write`].
    pub fn write_at(&self, offset: u64, source: &mut Source<'_>) -> Result<usize, Errno> {
        self.check_writes()?;
        check_offset(offset)?;
        self.object.write_at(offset, source)
    }

    /// `POLL*` bits that are true now.
    #[must_use]
    pub fn readiness(&self) -> u32 {
        self.object.readiness()
    }

    /// Shows the events whose raise may change [`OpenFile::readiness`].
    pub fn objects(&self, visit: &mut dyn FnMut(ObjectId)) {
        self.object.notifiers(&mut |notifier| visit(notifier.id()));
    }

    /// Number of times its notifiers were raised: differs when something may have become ready.
    #[must_use]
    pub fn raises(&self) -> u64 {
        let mut raises = 0_u64;
        self.object.notifiers(&mut |notifier| raises = raises.wrapping_add(notifier.raises()));
        raises
    }

    /// Moves the position.
    ///
    /// # Errors
    /// [`Errno::SPIPE`] for a stream, [`Errno::INVAL`] for a position that cannot be.
    pub fn seek(&self, offset: i64, whence: u32) -> Result<u64, Errno> {
        let length = self.object.length().ok_or(Errno::SPIPE)?;
        let base = match whence {
            flags::SEEK_SET => 0,
            flags::SEEK_CURRENT => self.position.get(),
            flags::SEEK_END => length,
            flags::SEEK_DATA | flags::SEEK_HOLE => {
                return self.seek_extent(offset, whence, length);
            }
            _ => return Err(Errno::INVAL),
        };
        let position = base.checked_add_signed(offset).ok_or(Errno::INVAL)?;
        check_offset(position)?;
        self.position.set(position);
        Ok(position)
    }

    /// A file counts as one extent of data with a hole behind it, which is always allowed.
    fn seek_extent(&self, offset: i64, whence: u32, length: u64) -> Result<u64, Errno> {
        let offset = u64::try_from(offset).map_err(|_| Errno::NXIO)?;
        if offset >= length {
            return Err(Errno::NXIO);
        }
        let position = if whence == flags::SEEK_DATA { offset } else { length };
        self.position.set(position);
        Ok(position)
    }

    /// What `fstat` says.
    ///
    /// # Errors
    /// When the file cannot tell.
    pub fn stat(&self) -> Result<Stat, Errno> {
        self.object.stat()
    }

    /// Notes position and flags, and what the object is; what is returned puts all that back.
    /// `None` when it cannot be put back.
    #[must_use]
    pub fn keep(self: &Rc<Self>) -> Option<Keeping> {
        let object = Rc::clone(&self.object).keep()?;
        let (file, flags, position) = (Rc::clone(self), self.flags.get(), self.position.get());
        Some(Box::new(move || {
            file.flags.set(flags);
            file.position.set(position);
            object();
        }))
    }

    /// `O_*` status flags and access mode.
    #[must_use]
    pub fn flags(&self) -> u32 {
        self.flags.get()
    }

    /// Sets those status flags that can change while a file is open.
    pub fn set_flags(&self, value: u32) {
        let kept = self.flags.get() & !flags::SETTABLE;
        self.flags.set(kept | value & flags::SETTABLE);
    }

    /// Sets the length.
    ///
    /// # Errors
    /// [`Errno::INVAL`] when it has none or is not open for writing.
    pub fn truncate(&self, bytes: u64) -> Result<(), Errno> {
        self.check_writes().map_err(|_| Errno::INVAL)?;
        check_offset(bytes)?;
        self.object.truncate(bytes)
    }

    /// Everything is in memory: nothing to wait for.
    ///
    /// # Errors
    /// [`Errno::INVAL`] for what cannot be synchronised.
    pub fn sync(&self) -> Result<(), Errno> {
        let is_directory = self.object.stat().is_ok_and(|stat| stat.is_directory());
        if self.object.length().is_some() || is_directory { Ok(()) } else { Err(Errno::INVAL) }
    }

    /// Bytes that can be read without waiting (`FIONREAD`).
    ///
    /// # Errors
    /// [`Errno::NOTTY`] when that has no meaning here.
    pub fn readable_bytes(&self) -> Result<usize, Errno> {
        let Some(length) = self.object.length() else {
            return self.object.readable_bytes();
        };
        let rest = length.saturating_sub(self.position.get());
        Ok(usize::try_from(rest).unwrap_or(usize::MAX))
    }

    /// There are no terminals.
    #[must_use]
    pub fn is_terminal(&self) -> bool {
        false
    }

    /// Shows directory entries from the position on until the visitor says `false`; the entry it
    /// refused is offered again next time.
    ///
    /// # Errors
    /// [`Errno::NOTDIR`] when it is no directory.
    pub fn read_directory(
        &self,
        visit: &mut dyn FnMut(&DirectoryEntry<'_>) -> bool,
    ) -> Result<(), Errno> {
        if self.flags.get() & flags::PATH != 0 {
            return Err(Errno::BADF);
        }
        let next = self.object.read_directory(self.position.get(), visit)?;
        self.position.set(next);
        Ok(())
    }

    /// How the page at `offset` (a multiple of the page size) can be mapped.
    ///
    /// # Errors
    /// [`Errno::NODEV`] when the file cannot be mapped.
    pub fn map_page(&self, offset: u64) -> Result<FilePage, Errno> {
        self.object.map_page(offset)
    }

    /// A share of the file's own page at `offset`, to be mapped so that stores reach the file.
    ///
    /// # Errors
    /// [`Errno::NODEV`] when the file has no pages that could change, [`Errno::NOSPC`].
    pub fn share_page(&self, offset: u64) -> Result<Frame, Errno> {
        self.object.share_page(offset)
    }

    /// What `/proc/self/fd` shows for it.
    #[must_use]
    pub fn path(&self) -> Vec<u8> {
        self.object.path()
    }

    fn check_reads(&self) -> Result<(), Errno> {
        if flags::reads(self.flags.get()) { Ok(()) } else { Err(Errno::BADF) }
    }

    fn check_writes(&self) -> Result<(), Errno> {
        if flags::writes(self.flags.get()) { Ok(()) } else { Err(Errno::BADF) }
    }
}

/// File positions are signed 64-bit numbers for programs.
fn check_offset(offset: u64) -> Result<(), Errno> {
    i64::try_from(offset).map(|_| ()).map_err(|_| Errno::INVAL)
}
