//! Writes tar archives: the form in which packages and the root image reach a guest.
//!
//! The same tree always gives the same bytes (no times, no owners, order as given), so a digest
//! names a tree. The data of a file larger than a page starts on a page of the archive: the guest
//! maps it from the image window instead of copying it. Room in front of it is filled by a pax
//! header holding one `comment` record (POSIX.1-2017, `pax`, section "pax Extended Header"), which
//! every tar reader skips.

const BLOCK_BYTES: usize = 512;
const PAGE_BYTES: usize = 4096;
/// Longest path in the name field of a `ustar` header.
const NAME_BYTES: usize = 100;
/// Largest size twelve octal digits can say in the header, and far more than a window holds.
const SIZE_MAX: usize = 0o77_777_777_777;

/// A name or size that a tar archive cannot hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unfit {
    /// The path it was for.
    pub(crate) path: String,
}

impl core::fmt::Display for Unfit {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}: path or file too long for an archive, or path with a line break", self.path)
    }
}

impl core::error::Error for Unfit {}

/// An archive being written. Paths are relative, without a leading slash; a folder comes before
/// what is in it.
#[derive(Debug, Default)]
pub(crate) struct Archive {
    bytes: Vec<u8>,
}

impl Archive {
    /// An archive with nothing in it.
    #[must_use]
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Adds a folder.
    ///
    /// # Errors
    /// [`Unfit`] when the path cannot be written.
    pub(crate) fn folder(&mut self, path: &str, mode: u32) -> Result<(), Unfit> {
        self.entry(b'5', &format!("{}/", path.trim_end_matches('/')), mode, "", 0)
    }

    /// Adds a symbolic link.
    ///
    /// # Errors
    /// [`Unfit`] when path or target cannot be written.
    pub(crate) fn link(&mut self, path: &str, target: &str) -> Result<(), Unfit> {
        self.entry(b'2', path, 0o777, target, 0)
    }

    /// Adds a file. Its data starts on a page if it is larger than one.
    ///
    /// # Errors
    /// [`Unfit`] when the path or the size cannot be written.
    pub(crate) fn file(&mut self, path: &str, mode: u32, data: &[u8]) -> Result<(), Unfit> {
        self.entry(b'0', path, mode, "", data.len())?;
        self.bytes.extend_from_slice(data);
        self.fill_block();
        Ok(())
    }

    /// The archive: two empty blocks behind the last entry, then filled to a whole page.
    #[must_use]
    pub(crate) fn finish(mut self) -> Vec<u8> {
        let end = self.bytes.len() + 2 * BLOCK_BYTES;
        self.bytes.resize(end.next_multiple_of(PAGE_BYTES), 0);
        self.bytes
    }

    fn entry(
        &mut self,
        kind: u8,
        path: &str,
        mode: u32,
        target: &str,
        size: usize,
    ) -> Result<(), Unfit> {
        let is_plain = |name: &str| !name.contains(['\n', '\0']);
        if size > SIZE_MAX || path.is_empty() || !is_plain(path) || !is_plain(target) {
            return Err(Unfit { path: path.to_owned() });
        }
        let mut records = String::new();
        if path.len() > NAME_BYTES {
            records += &record("path", path);
        }
        if target.len() > NAME_BYTES {
            records += &record("linkpath", target);
        }
        if size > PAGE_BYTES {
            self.align(&mut records);
        }
        if !records.is_empty() {
            self.header(b'x', "pax", 0o644, "", records.len());
            self.bytes.extend_from_slice(records.as_bytes());
            self.fill_block();
        }
        self.header(kind, path, mode, target, size);
        Ok(())
    }

    /// Adds a comment to the records so that what follows the next header starts on a page.
    fn align(&self, records: &mut String) {
        // Without records no pax header is needed: perhaps the place is right already.
        let is_aligned = (self.bytes.len() + BLOCK_BYTES).is_multiple_of(PAGE_BYTES);
        if records.is_empty() && is_aligned {
            return;
        }
        let least = records.len() + COMMENT_BYTES_MIN;
        let data = self.bytes.len() + 2 * BLOCK_BYTES + least.next_multiple_of(BLOCK_BYTES);
        let gap = data.next_multiple_of(PAGE_BYTES) - data;
        let whole = least.next_multiple_of(BLOCK_BYTES) + gap;
        *records += &comment(whole - records.len());
    }

    fn header(&mut self, kind: u8, path: &str, mode: u32, target: &str, size: usize) {
        let mut block = [0_u8; BLOCK_BYTES];
        put(&mut block[..NAME_BYTES], path.as_bytes());
        put(&mut block[100..], format!("{:07o}\0", mode & 0o7777).as_bytes());
        put(&mut block[108..], b"0000000\0");
        put(&mut block[116..], b"0000000\0");
        put(&mut block[124..], format!("{size:011o}\0").as_bytes());
        put(&mut block[136..], b"00000000000\0");
        put(&mut block[148..], b"        ");
        block[156] = kind;
        put(&mut block[157..157 + NAME_BYTES], target.as_bytes());
        put(&mut block[257..], b"ustar\x0000");
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        put(&mut block[148..], format!("{sum:06o}\0 ").as_bytes());
        self.bytes.extend_from_slice(&block);
    }

    fn fill_block(&mut self) {
        let length = self.bytes.len().next_multiple_of(BLOCK_BYTES);
        self.bytes.resize(length, 0);
    }
}

/// Copies as much as fits.
fn put(field: &mut [u8], bytes: &[u8]) {
    for (to, from) in field.iter_mut().zip(bytes) {
        *to = *from;
    }
}

/// A comment record of this many bytes has room for its own length: `NNNN comment=\n`.
const COMMENT_BYTES_MIN: usize = 24;

fn comment(length: usize) -> String {
    let head = format!("{length} comment=");
    let fill = length.saturating_sub(head.len() + 1);
    format!("{head}{}\n", "-".repeat(fill))
}

/// One pax record: its own length in decimal, a blank, `key=value`, a line end.
fn record(key: &str, value: &str) -> String {
    let rest = format!(" {key}={value}\n");
    let mut length = rest.len() + 1;
    while length != rest.len() + length.to_string().len() {
        length = rest.len() + length.to_string().len();
    }
    format!("{length}{rest}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::process::{Command, Stdio};

    fn sample() -> Vec<u8> {
        let mut archive = Archive::new();
        archive.folder("bin", 0o755).unwrap();
        archive.file("bin/tool", 0o755, &[7; 10_000]).unwrap();
        archive.file("small", 0o644, b"hello").unwrap();
        archive.link("bin/alias", "tool").unwrap();
        archive.file(&format!("{}/{}", "d".repeat(90), "f".repeat(90)), 0o600, &[9; 5000]).unwrap();
        archive.link("far", &"x/".repeat(80)).unwrap();
        archive.file("again", 0o644, &[1; 4097]).unwrap();
        archive.finish()
    }

    #[test]
    fn same_tree_same_bytes() {
        assert_eq!(sample(), sample());
        assert!(sample().len().is_multiple_of(PAGE_BYTES));
    }

    #[test]
    fn large_files_start_on_a_page() {
        let bytes = sample();
        for fill in [7_u8, 9, 1] {
            let at = bytes.windows(4097).position(|run| run.iter().all(|byte| *byte == fill));
            assert!(at.unwrap().is_multiple_of(PAGE_BYTES), "data of {fill}");
        }
    }

    #[test]
    fn every_gap_can_be_filled() {
        for files in 0..9 {
            for name in [10, 99, 101, 400, 700] {
                let mut archive = Archive::new();
                for _ in 0..files {
                    archive.file("s", 0o644, b"").unwrap();
                }
                archive.file(&"n".repeat(name), 0o644, &[5; 4097]).unwrap();
                let at = archive.bytes.iter().rposition(|byte| *byte != 5 && *byte != 0).unwrap();
                let data = at + archive.bytes[at..].iter().position(|byte| *byte == 5).unwrap();
                assert!(data.is_multiple_of(PAGE_BYTES), "{files} files, name of {name}: {data}");
            }
        }
    }

    #[test]
    fn tar_reads_it() {
        let folder = tempfile::tempdir().unwrap();
        let mut tar = Command::new("tar")
            .args(["-x", "-C"])
            .arg(folder.path())
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        std::io::Write::write_all(&mut tar.stdin.take().unwrap(), &sample()).unwrap();
        assert!(tar.wait().unwrap().success());
        let sizes: BTreeMap<_, _> = ["bin/tool", "bin/alias", "small", "again"]
            .into_iter()
            .map(|name| (name, std::fs::read(folder.path().join(name)).unwrap().len()))
            .collect();
        let expected = [("bin/tool", 10_000), ("bin/alias", 10_000), ("small", 5), ("again", 4097)];
        assert_eq!(sizes, expected.into_iter().collect());
        let far = std::fs::read_link(folder.path().join("far")).unwrap();
        assert_eq!(far.to_str().unwrap(), "x/".repeat(80));
    }

    #[test]
    fn refuses_what_a_header_cannot_hold() {
        assert!(Archive::new().file("a\nb", 0o644, b"").is_err());
        assert!(Archive::new().link("a", "b\0").is_err());
        assert!(Archive::new().file("", 0o644, b"").is_err());
    }
}
