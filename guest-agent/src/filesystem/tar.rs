//! Reads tar archives: POSIX ustar and pax (IEEE Std 1003.1, `pax`, "ustar Interchange Format"),
//! with GNU's long names and binary numbers.
//!
//! Every number is compared with what is there before it is used. Regular files, directories,
//! symbolic and hard links are taken; devices and other oddities are left out.

use alloc::vec::Vec;

use super::image::{Builder, Data, ImageError, Kind, Node};

const BLOCK: usize = 512;
/// Bytes an extended header (long name, pax records) may have.
const EXTENDED_BYTES_MAX: usize = 1024 * 1024;

/// Why an archive cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TarError {
    /// It ends inside a header or a file.
    CutShort,
    /// A header's checksum is wrong.
    Checksum,
    /// A number is none.
    Number,
    /// A pax record is none.
    Record,
    /// An extended header is longer than any name.
    TooLong,
}

impl From<TarError> for ImageError {
    fn from(error: TarError) -> Self {
        Self::Tar(error)
    }
}

/// What extended headers said about the entry that follows them.
#[derive(Debug, Default)]
struct Extended {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    bytes: Option<u64>,
    modified_nanos: Option<u64>,
}

/// Adds every entry of `archive` to `builder`; ranges of [`Data::Archive`] are in `archive`.
///
/// # Errors
/// [`ImageError`] at the first entry that is wrong.
pub fn read(archive: &[u8], builder: &mut Builder) -> Result<(), ImageError> {
    let mut at = 0;
    let mut extended = Extended::default();
    while at < archive.len() {
        let end = at.checked_add(BLOCK).ok_or(TarError::CutShort)?;
        let header = archive.get(at..end).ok_or(TarError::CutShort)?;
        if header.iter().all(|byte| *byte == 0) {
            break;
        }
        check_sum(header)?;
        let kind = header[156];
        let own_bytes = number(&header[124..136])?;
        // A pax size belongs to the entry it precedes, not to headers in between.
        let is_extension = matches!(kind, b'x' | b'g' | b'L' | b'K');
        let bytes = if is_extension { own_bytes } else { extended.bytes.unwrap_or(own_bytes) };
        let bytes = if has_data(kind) { bytes } else { 0 };
        let bytes = usize::try_from(bytes).map_err(|_| TarError::CutShort)?;
        let data_end = end.checked_add(bytes).ok_or(TarError::CutShort)?;
        let data = archive.get(end..data_end).ok_or(TarError::CutShort)?;
        if is_extension {
            extend(&mut extended, kind, data)?;
        } else {
            let entry =
                Entry { header, start: end, bytes, extended: core::mem::take(&mut extended) };
            entry.add(builder)?;
        }
        at = data_end.checked_next_multiple_of(BLOCK).ok_or(TarError::CutShort)?;
    }
    Ok(())
}

/// Whether entries of this kind are followed by their bytes. Links and directories state sizes
/// without having any.
fn has_data(kind: u8) -> bool {
    !matches!(kind, b'1'..=b'6')
}

struct Entry<'a> {
    header: &'a [u8],
    start: usize,
    bytes: usize,
    extended: Extended,
}

impl Entry<'_> {
    fn add(self, builder: &mut Builder) -> Result<(), ImageError> {
        let path = self.extended.path.clone().unwrap_or_else(|| full_name(self.header));
        let permissions = u32::try_from(number(&self.header[100..108])? & 0o7777).unwrap_or(0);
        let seconds = number(&self.header[136..148])?;
        let own_nanos = seconds.saturating_mul(1_000_000_000);
        let modified_nanos = self.extended.modified_nanos.unwrap_or(own_nanos);
        let target = || match &self.extended.link {
            Some(link) => link.clone(),
            None => text(&self.header[157..257]).to_vec(),
        };
        let node = |kind| Node { kind, permissions, links: 1, modified_nanos };
        match self.header[156] {
            b'5' => {
                builder.directory(&path, permissions, modified_nanos)?;
            }
            // Before ustar a directory was a file whose name ends in a slash.
            b'0' | 0 | b'7' if path.ends_with(b"/") => {
                builder.directory(&path, permissions, modified_nanos)?;
            }
            b'0' | 0 | b'7' => {
                let data = Data::Archive { start: self.start, bytes: self.bytes };
                builder.put(&path, node(Kind::File(data)))?;
            }
            b'1' => builder.hard_link(&path, &target())?,
            b'2' => {
                builder.put(&path, node(Kind::Symlink(target().into())))?;
            }
            _ => {}
        }
        Ok(())
    }
}

fn extend(extended: &mut Extended, kind: u8, data: &[u8]) -> Result<(), TarError> {
    if data.len() > EXTENDED_BYTES_MAX {
        return Err(TarError::TooLong);
    }
    match kind {
        b'L' => extended.path = Some(text(data).to_vec()),
        b'K' => extended.link = Some(text(data).to_vec()),
        b'x' => return records(extended, data),
        // Global records state defaults; ours and GNU tar's say nothing a reader needs.
        _ => {}
    }
    Ok(())
}

/// pax records: `LENGTH KEY=VALUE\n`, the length counting all of it.
fn records(extended: &mut Extended, data: &[u8]) -> Result<(), TarError> {
    let mut rest = data;
    while !rest.is_empty() {
        let space = rest.iter().position(|byte| *byte == b' ').ok_or(TarError::Record)?;
        let length = decimal(&rest[..space]).ok_or(TarError::Record)?;
        let length = usize::try_from(length).map_err(|_| TarError::Record)?;
        let record = rest.get(space + 1..length).ok_or(TarError::Record)?;
        let record = record.strip_suffix(b"\n").ok_or(TarError::Record)?;
        let equals = record.iter().position(|byte| *byte == b'=').ok_or(TarError::Record)?;
        let (key, value) = (&record[..equals], &record[equals + 1..]);
        match key {
            b"path" => extended.path = Some(value.to_vec()),
            b"linkpath" => extended.link = Some(value.to_vec()),
            b"size" => extended.bytes = Some(decimal(value).ok_or(TarError::Record)?),
            b"mtime" => extended.modified_nanos = time(value),
            _ => {}
        }
        rest = &rest[length..];
    }
    Ok(())
}

fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    core::str::from_utf8(digits).ok()?.parse().ok()
}

/// `SECONDS[.FRACTION]`; times before 1970 or nonsense count as unknown.
fn time(value: &[u8]) -> Option<u64> {
    let point = value.iter().position(|byte| *byte == b'.').unwrap_or(value.len());
    let seconds = decimal(&value[..point])?;
    let fraction = value.get(point + 1..).unwrap_or_default();
    let mut nanos = 0;
    for place in 0..9 {
        let digit = fraction.get(place).filter(|digit| digit.is_ascii_digit());
        nanos = nanos * 10 + u64::from(digit.map_or(0, |digit| digit - b'0'));
    }
    seconds.checked_mul(1_000_000_000)?.checked_add(nanos)
}

/// A header's number: octal digits, or GNU's big-endian binary with the top bit set.
fn number(field: &[u8]) -> Result<u64, TarError> {
    if field.first().is_some_and(|first| first & 0x80 != 0) {
        let (high, low) = field.split_at(field.len().saturating_sub(8));
        let is_small = high.iter().enumerate().all(|(place, byte)| match place {
            0 => *byte == 0x80,
            _ => *byte == 0,
        });
        let bytes: [u8; 8] = low.try_into().map_err(|_| TarError::Number)?;
        // In an 8-byte field the flag shares the number's first byte.
        let value = u64::from_be_bytes(bytes) & !(u64::from(high.is_empty()) << 63);
        return if is_small { Ok(value) } else { Err(TarError::Number) };
    }
    let digits = field.iter().skip_while(|byte| **byte == b' ');
    let digits = digits.take_while(|byte| !matches!(byte, b' ' | 0));
    digits.into_iter().try_fold(0_u64, |value, digit| match digit {
        b'0'..=b'7' => value
            .checked_mul(8)
            .and_then(|value| value.checked_add(u64::from(digit - b'0')))
            .ok_or(TarError::Number),
        _ => Err(TarError::Number),
    })
}

/// The sum of all header bytes, its own field counted as spaces; old writers summed signed bytes.
fn check_sum(header: &[u8]) -> Result<(), TarError> {
    let stated = number(&header[148..156])?;
    let (mut unsigned, mut signed) = (0_u64, 0_i64);
    for (place, byte) in header.iter().enumerate() {
        let byte = if (148..156).contains(&place) { b' ' } else { *byte };
        unsigned += u64::from(byte);
        signed += i64::from(byte.cast_signed());
    }
    let matches_signed = i64::try_from(stated) == Ok(signed);
    if stated == unsigned || matches_signed { Ok(()) } else { Err(TarError::Checksum) }
}

/// The bytes up to the first NUL.
fn text(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// Name of a header; ustar puts the front of a long one into a second field, GNU uses that field
/// for something else.
fn full_name(header: &[u8]) -> Vec<u8> {
    let name = text(&header[..100]);
    let prefix = text(&header[345..500]);
    if &header[257..263] != b"ustar\0" || prefix.is_empty() {
        return name.to_vec();
    }
    [prefix, b"/", name].concat()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::string::{String, ToString};

    use proptest::prelude::*;

    use super::*;
    use crate::filesystem::image::{Archive, Image, NodeId};

    /// Every path of an image with what is there.
    fn listing(image: &Image) -> BTreeMap<String, String> {
        let mut found = BTreeMap::new();
        let mut open = std::vec![(NodeId::ROOT, String::new())];
        while let Some((id, path)) = open.pop() {
            for (name, child) in image.entries(id) {
                let path = std::format!("{path}/{}", String::from_utf8_lossy(name));
                let node = image.node(*child);
                let text = match &node.kind {
                    Kind::Directory(_) => "dir".to_string(),
                    Kind::File(data) => std::format!("{:?}", image.bytes(data)),
                    Kind::Symlink(target) => String::from_utf8_lossy(target).to_string(),
                    Kind::Device(_) | Kind::Processes => "special".to_string(),
                };
                found.insert(path.clone(), std::format!("{:o} {text}", node.permissions));
                open.push((*child, path));
            }
        }
        found
    }

    #[derive(Clone, Debug)]
    enum Made {
        File(Vec<u8>),
        Link(String),
    }

    fn name() -> impl Strategy<Value = String> {
        prop_oneof!["[a-z]{1,3}", "[a-z]{90,130}", "[a-z](/[a-z]){0,2}", "é{3,60}"]
    }

    fn entries() -> impl Strategy<Value = BTreeMap<String, Made>> {
        let made = prop_oneof![
            prop::collection::vec(any::<u8>(), 0..2000).prop_map(Made::File),
            "[a-z./]{1,200}".prop_map(Made::Link),
        ];
        let path = prop::collection::vec(name(), 1..4).prop_map(|names| names.join("/d/"));
        prop::collection::btree_map(path, made, 0..8)
    }

    fn archive(entries: &BTreeMap<String, Made>) -> Vec<u8> {
        let mut builder = ::tar::Builder::new(Vec::new());
        for (path, made) in entries {
            let mut header = ::tar::Header::new_gnu();
            header.set_mode(0o640);
            header.set_mtime(77);
            match made {
                Made::File(bytes) => {
                    header.set_size(bytes.len().try_into().unwrap());
                    builder.append_data(&mut header, path, &bytes[..]).unwrap();
                }
                Made::Link(target) => {
                    header.set_entry_type(::tar::EntryType::Symlink);
                    header.set_size(0);
                    builder.append_link(&mut header, path, target).unwrap();
                }
            }
        }
        builder.into_inner().unwrap()
    }

    fn names(path: &str) -> Vec<&str> {
        path.split('/').filter(|name| !name.is_empty() && *name != ".").collect()
    }

    /// The same by the `tar` crate's reader.
    fn peer_listing(archive: &[u8]) -> BTreeMap<String, String> {
        use std::io::Read;
        let mut found = BTreeMap::new();
        for entry in ::tar::Archive::new(archive).entries().unwrap() {
            let mut entry = entry.unwrap();
            let path = String::from_utf8(entry.path_bytes().to_vec()).unwrap();
            let names = names(&path);
            for depth in 1..names.len() {
                let parent = std::format!("/{}", names[..depth].join("/"));
                found.entry(parent).or_insert_with(|| "755 dir".to_string());
            }
            let text = match entry.link_name_bytes() {
                Some(target) => String::from_utf8_lossy(&target).to_string(),
                None => {
                    let mut bytes = Vec::new();
                    entry.read_to_end(&mut bytes).unwrap();
                    std::format!("{bytes:?}")
                }
            };
            found.insert(std::format!("/{}", names.join("/")), std::format!("640 {text}"));
        }
        found
    }

    fn image(archive: &[u8]) -> Result<Image, ImageError> {
        Image::from_tar(Archive::Owned(archive.to_vec()), 1)
    }

    proptest! {
        #[test]
        fn it_reads_what_the_tar_crate_writes(entries in entries()) {
            let bytes = archive(&entries);
            // A name below another entry's name is a bad path here, and only here.
            if let Ok(image) = image(&bytes) {
                prop_assert_eq!(listing(&image), peer_listing(&bytes));
            } else {
                let clash = |path: &String| {
                    let is_below = |other: &String| names(other).starts_with(&names(path));
                    entries.keys().any(|other| other != path && is_below(other))
                };
                let too_long = entries.keys().any(|path| path.split('/').any(|name| name.len() > 255));
                prop_assert!(entries.keys().any(clash) || too_long);
            }
        }

        #[test]
        fn no_archive_makes_it_panic(
            entries in entries(),
            damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..20),
            repair in any::<bool>(),
        ) {
            let mut bytes = archive(&entries);
            for (place, byte) in damage {
                let place = place.index(bytes.len());
                bytes[place] = byte;
            }
            if repair {
                for block in bytes.chunks_exact_mut(BLOCK) {
                    let sum: u64 = (0..BLOCK)
                        .map(|place| if (148..156).contains(&place) { 32 } else { u64::from(block[place]) })
                        .sum();
                    block[148..156].copy_from_slice(std::format!("{sum:06o}\0 ").as_bytes());
                }
            }
            if let Ok(image) = image(&bytes) {
                listing(&image);
            }
        }
    }

    #[test]
    fn pax_records_override_the_header() {
        let mut builder = ::tar::Builder::new(Vec::new());
        let long = "p".repeat(150) + "/file";
        builder
            .append_pax_extensions([
                ("path", long.as_bytes()),
                ("mtime", b"5.25"),
                ("comment", b"x y=z"),
            ])
            .unwrap();
        let mut header = ::tar::Header::new_ustar();
        header.set_size(3);
        header.set_mode(0o755);
        builder.append_data(&mut header, "short", &b"abc"[..]).unwrap();
        let image = image(&builder.into_inner().unwrap()).unwrap();
        let directory = image.lookup(NodeId::ROOT, "p".repeat(150).as_bytes()).unwrap();
        let file = image.node(image.lookup(directory, b"file").unwrap());
        assert_eq!(file.modified_nanos, 5_250_000_000);
        assert!(matches!(&file.kind, Kind::File(data) if image.bytes(data) == b"abc"));
    }

    #[test]
    fn an_archive_cut_short_is_refused_anywhere() {
        let entries = BTreeMap::from([("a".to_string(), Made::File(std::vec![1; 700]))]);
        let bytes = archive(&entries);
        for length in [1, 511, 513, 1024, 1211] {
            assert_eq!(image(&bytes[..length]).err(), Some(ImageError::Tar(TarError::CutShort)));
        }
        assert!(image(&[]).is_ok() && image(&bytes[..1536]).is_ok());
    }

    #[test]
    fn numbers_are_octal_or_binary() {
        assert_eq!(number(b"  644 \0\0"), Ok(0o644));
        assert_eq!(number(b"\x80\0\0\0\0\0\x02\0\0\0\0\0"), Ok(0x2_0000_0000 << 8));
        assert_eq!(
            number(b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"),
            Err(TarError::Number)
        );
        assert_eq!(number(b"9"), Err(TarError::Number));
    }
}
