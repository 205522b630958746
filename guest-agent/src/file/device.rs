//! The character devices programs expect.

use alloc::rc::Rc;
use alloc::vec::Vec;

use super::stat::{Stat, kind};
use super::{Keeping, Object, nothing_to_keep};
use crate::errno::Errno;
use crate::memory::transfer::{Sink, Source};
use crate::world::World;

/// A device by what it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// Takes everything, gives nothing.
    Null,
    /// Takes everything, gives zeros.
    Zero,
    /// Takes nothing, gives zeros.
    Full,
    /// Gives unpredictable bytes.
    Random,
    /// The controlling terminal; there is none.
    Terminal,
}

impl Device {
    /// Linux' device number: major 1 (or 5) and a minor.
    #[must_use]
    pub fn number(self) -> u64 {
        match self {
            Self::Null => 0x103,
            Self::Zero => 0x105,
            Self::Full => 0x107,
            Self::Random => 0x109,
            Self::Terminal => 0x500,
        }
    }
}

/// An open device.
pub struct DeviceFile {
    device: Device,
    world: World,
    stat: Stat,
    path: Vec<u8>,
}

impl DeviceFile {
    /// Opens `device`, whose file is described by `stat` and lies at `path`.
    ///
    /// # Errors
    /// [`Errno::NXIO`] for the terminal: there is none.
    pub fn open(device: Device, world: World, stat: Stat, path: Vec<u8>) -> Result<Self, Errno> {
        if device == Device::Terminal {
            return Err(Errno::NXIO);
        }
        Ok(Self { device, world, stat, path })
    }

    fn give_random(&self, sink: &mut Sink<'_>) -> Result<usize, Errno> {
        let mut count = 0;
        let mut bytes = [0; 256];
        while sink.remaining() > 0 {
            let portion = sink.remaining().min(bytes.len());
            self.world.random(&mut bytes[..portion]);
            count += sink.put(&bytes[..portion])?;
        }
        Ok(count)
    }
}

impl Object for DeviceFile {
    fn keep(self: Rc<Self>) -> Option<Keeping> {
        nothing_to_keep()
    }

    fn read(&self, sink: &mut Sink<'_>) -> Result<usize, Errno> {
        let count = sink.remaining();
        match self.device {
            Device::Null | Device::Terminal => Ok(0),
            Device::Zero | Device::Full => sink.fill(count, 0),
            Device::Random => self.give_random(sink),
        }
    }

    fn write(&self, source: &mut Source<'_>) -> Result<usize, Errno> {
        if self.device == Device::Full {
            return Err(Errno::NOSPC);
        }
        Ok(source.remaining())
    }

    fn read_at(&self, _offset: u64, sink: &mut Sink<'_>) -> Result<usize, Errno> {
        self.read(sink)
    }

    fn write_at(&self, _offset: u64, source: &mut Source<'_>) -> Result<usize, Errno> {
        self.write(source)
    }

    /// Devices can be sought in, and are at 0 wherever one seeks.
    fn length(&self) -> Option<u64> {
        Some(0)
    }

    fn stat(&self) -> Result<Stat, Errno> {
        Ok(Stat { mode: u32::from(kind::CHARACTER) << 12 | self.stat.mode & 0o7777, ..self.stat })
    }

    fn path(&self) -> Vec<u8> {
        self.path.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(device: Device) -> Result<DeviceFile, Errno> {
        let world = World::new();
        world.seed([1; 32]);
        DeviceFile::open(device, world, Stat::default(), b"/dev/x".to_vec())
    }

    #[test]
    fn each_device_gives_and_takes_as_its_name_says() {
        let mut bytes = [7; 300];
        let mut read = |device| {
            bytes.fill(7);
            let count = open(device).unwrap().read(&mut Sink::kernel(&mut bytes)).unwrap();
            (count, bytes[0], bytes[299])
        };
        assert_eq!(read(Device::Null), (0, 7, 7));
        assert_eq!(read(Device::Zero), (300, 0, 0));
        assert_eq!(read(Device::Full), (300, 0, 0));
        assert_eq!(read(Device::Random).0, 300);
        let write = |device| open(device).unwrap().write(&mut Source::kernel(b"abc"));
        assert_eq!((write(Device::Null), write(Device::Full)), (Ok(3), Err(Errno::NOSPC)));
        assert!(matches!(open(Device::Terminal), Err(Errno::NXIO)));
    }
}
