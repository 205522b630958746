//! Little-endian fields in a byte slice: a reader that never reads past its end and a writer that
//! never writes past it. Pure; used by frames and control messages.

/// The bytes end before the value does, or hold a value that is not allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// Takes values from the front of a slice.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// Reads `bytes` from the front.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// What has not been taken yet.
    #[must_use]
    pub fn rest(self) -> &'a [u8] {
        self.0
    }

    /// Takes `count` bytes.
    ///
    /// # Errors
    /// [`Malformed`] when there are fewer.
    pub fn bytes(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    /// Takes a fixed number of bytes.
    ///
    /// # Errors
    /// [`Malformed`] when there are fewer.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        self.bytes(N)?.try_into().map_err(|_| Malformed)
    }

    /// Takes one byte.
    ///
    /// # Errors
    /// [`Malformed`] at the end.
    pub fn u8(&mut self) -> Result<u8, Malformed> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    /// Takes two bytes.
    ///
    /// # Errors
    /// [`Malformed`] at the end.
    pub fn u16(&mut self) -> Result<u16, Malformed> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    /// Takes four bytes.
    ///
    /// # Errors
    /// [`Malformed`] at the end.
    pub fn u32(&mut self) -> Result<u32, Malformed> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    /// Takes eight bytes.
    ///
    /// # Errors
    /// [`Malformed`] at the end.
    pub fn u64(&mut self) -> Result<u64, Malformed> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// Takes a string or blob that carries its length in front (u32).
    ///
    /// # Errors
    /// [`Malformed`] when it is cut short.
    pub fn blob(&mut self) -> Result<&'a [u8], Malformed> {
        let length = usize::try_from(self.u32()?).map_err(|_| Malformed)?;
        self.bytes(length)
    }

    /// Takes UTF-8 text that carries its length in front (u32).
    ///
    /// # Errors
    /// [`Malformed`] when it is cut short or not UTF-8.
    pub fn text(&mut self) -> Result<&'a str, Malformed> {
        core::str::from_utf8(self.blob()?).map_err(|_| Malformed)
    }
}

/// Puts values at the front of what is left of a buffer.
#[derive(Debug)]
pub struct Writer<'a> {
    buffer: &'a mut [u8],
    length: usize,
}

impl<'a> Writer<'a> {
    /// Writes into `buffer` from its start.
    #[must_use]
    pub fn new(buffer: &'a mut [u8]) -> Self {
        Self { buffer, length: 0 }
    }

    /// Bytes written so far.
    #[must_use]
    pub fn length(&self) -> usize {
        self.length
    }

    /// Puts bytes without a length.
    ///
    /// # Errors
    /// [`Malformed`] when they do not fit; nothing is written then.
    pub fn bytes(&mut self, bytes: &[u8]) -> Result<(), Malformed> {
        let end = self.length.checked_add(bytes.len()).ok_or(Malformed)?;
        self.buffer.get_mut(self.length..end).ok_or(Malformed)?.copy_from_slice(bytes);
        self.length = end;
        Ok(())
    }

    /// Puts one byte.
    ///
    /// # Errors
    /// [`Malformed`] when it does not fit.
    pub fn u8(&mut self, value: u8) -> Result<(), Malformed> {
        self.bytes(&value.to_le_bytes())
    }

    /// Puts two bytes.
    ///
    /// # Errors
    /// [`Malformed`] when they do not fit.
    pub fn u16(&mut self, value: u16) -> Result<(), Malformed> {
        self.bytes(&value.to_le_bytes())
    }

    /// Puts four bytes.
    ///
    /// # Errors
    /// [`Malformed`] when they do not fit.
    pub fn u32(&mut self, value: u32) -> Result<(), Malformed> {
        self.bytes(&value.to_le_bytes())
    }

    /// Puts eight bytes.
    ///
    /// # Errors
    /// [`Malformed`] when they do not fit.
    pub fn u64(&mut self, value: u64) -> Result<(), Malformed> {
        self.bytes(&value.to_le_bytes())
    }

    /// Puts a blob behind its length (u32).
    ///
    /// # Errors
    /// [`Malformed`] when it does not fit.
    pub fn blob(&mut self, bytes: &[u8]) -> Result<(), Malformed> {
        self.u32(u32::try_from(bytes.len()).map_err(|_| Malformed)?)?;
        self.bytes(bytes)
    }
}
