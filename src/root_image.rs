//! The root image: the read-only tree every container sees below its own writable layer.
//!
//! It is made once, when a node starts, from what the host has: Debian's `busybox-static` and the
//! certificates of `ca-certificates`. A configured file (any tar archive) takes its place. The
//! node hands the archive to the VMM, which places it in the image window before the base
//! snapshot is taken; a snapshot therefore belongs to one root image.
//!
//! A host without a static busybox still gets a root image, with the folders and `/etc` only:
//! static programs run, shell scripts do not, and [`RootImage::warning`] says how to change that.

use std::fs;
use std::io;
use std::path::Path;

use crate::archive::{Archive, Unfit};

/// Where Debian's `busybox-static` puts its one file.
pub(crate) const BUSYBOX: &str = "/bin/busybox";
/// Where Debian's `ca-certificates` puts all certificates in one file.
pub(crate) const CERTIFICATES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// The applets of Debian 12's `busybox-static`: what `busybox --list` prints. They are not asked
/// for at start, so that a node starts no program of the host.
const APPLETS: &str = include_str!("root_image/applets.txt");

const FOLDERS: [(&str, u32); 15] = [
    ("bin", 0o755),
    ("dev", 0o755),
    ("etc", 0o755),
    ("etc/ssl", 0o755),
    ("etc/ssl/certs", 0o755),
    ("home", 0o755),
    ("proc", 0o555),
    ("root", 0o700),
    ("run", 0o755),
    ("sys", 0o555),
    ("tmp", 0o1777),
    ("usr", 0o755),
    ("var", 0o755),
    ("var/task", 0o755),
    ("var/tmp", 0o1777),
];

const FILES: [(&str, &str); 4] = [
    ("etc/group", "root:x:0:\nnogroup:x:65534:\n"),
    ("etc/hosts", "127.0.0.1 localhost\n::1 localhost\n"),
    ("etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files\n"),
    ("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"),
];

/// A root image, ready to be placed.
#[derive(Debug)]
pub(crate) struct RootImage {
    /// A tar archive of whole pages.
    pub(crate) archive: Vec<u8>,
    /// One line for the operator when something is missing on this host.
    pub(crate) warning: Option<String>,
}

impl RootImage {
    /// The archive at `configured`, else one made from this host's busybox and certificates.
    ///
    /// Blocks: reads a few megabytes from disk. Called once, before the first VM.
    ///
    /// # Errors
    /// The configured file cannot be read, or there is nothing in it.
    pub(crate) fn load(configured: Option<&Path>) -> io::Result<Self> {
        if let Some(path) = configured {
            let named = |what: String| io::Error::other(format!("{}: {what}", path.display()));
            let mut archive = fs::read(path).map_err(|error| named(error.to_string()))?;
            if archive.is_empty() {
                return Err(named("it is empty, no tar archive".to_owned()));
            }
            archive.resize(archive.len().next_multiple_of(4096), 0);
            return Ok(Self { archive, warning: None });
        }
        Self::build(fs::read(BUSYBOX).ok().as_deref(), fs::read(CERTIFICATES).ok().as_deref())
            .map_err(io::Error::other)
    }

    /// The tree of these files; each may be missing.
    fn build(busybox: Option<&[u8]>, certificates: Option<&[u8]>) -> Result<Self, Unfit> {
        let busybox = busybox.filter(|program| is_static(program));
        let mut archive = Archive::new();
        for (path, mode) in FOLDERS {
            archive.folder(path, mode)?;
        }
        for path in ["sbin", "usr/bin", "usr/sbin"] {
            archive.link(path, "/bin")?;
        }
        for (path, text) in FILES {
            archive.file(path, 0o644, text.as_bytes())?;
        }
        if let Some(certificates) = certificates {
            archive.file(CERTIFICATES.trim_start_matches('/'), 0o644, certificates)?;
            archive.link("etc/ssl/cert.pem", "certs/ca-certificates.crt")?;
        }
        if let Some(busybox) = busybox {
            archive.file("bin/busybox", 0o755, busybox)?;
            for applet in APPLETS.lines() {
                archive.link(&format!("bin/{applet}"), "busybox")?;
            }
        }
        let warning = warning(busybox.is_some(), certificates.is_some());
        Ok(Self { archive: archive.finish(), warning })
    }
}

fn warning(has_busybox: bool, has_certificates: bool) -> Option<String> {
    let lacks = match (has_busybox, has_certificates) {
        (true, true) => return None,
        (false, true) => "a static /bin/busybox",
        (true, false) => "CA certificates",
        (false, false) => "a static /bin/busybox and CA certificates",
    };
    Some(format!(
        "the root image lacks {lacks}; programs that need them will fail. \
         Fix: apt-get install busybox-static ca-certificates"
    ))
}

/// Whether these bytes are an x86-64 ELF program that names no loader (ELF specification, program
/// header type `PT_INTERP`). The dynamic busybox of the package `busybox` would not start.
fn is_static(program: &[u8]) -> bool {
    const PT_INTERP: u32 = 3;
    let number = |at: usize, bytes: usize| {
        let field = program.get(at..at.checked_add(bytes)?)?;
        Some(field.iter().rev().fold(0_usize, |value, byte| value << 8 | usize::from(*byte)))
    };
    let has_loader = || {
        let (table, size, count) = (number(32, 8)?, number(54, 2)?, number(56, 2)?);
        let kinds = (0..count).map(|entry| number(table.checked_add(entry * size)?, 4));
        kinds.collect::<Option<Vec<_>>>().map(|kinds| kinds.contains(&(PT_INTERP as usize)))
    };
    program.starts_with(b"\x7fELF\x02\x01") && has_loader() == Some(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_tree_has_a_shell_and_certificates() {
        let image = RootImage::load(None).unwrap();
        assert_eq!(image.warning, None, "scripts/test installs both packages");
        assert!(image.archive.len().is_multiple_of(4096));
        let list = list(&image.archive);
        for path in ["bin/busybox", "bin/sh", "bin/sha256sum", "etc/ssl/cert.pem", "var/task/"] {
            assert!(list.iter().any(|entry| entry == path), "{path} is in {list:?}");
        }
    }

    #[test]
    fn missing_busybox_is_said_once_and_is_no_error() {
        let image = RootImage::build(None, Some(b"certificates")).unwrap();
        assert!(image.warning.unwrap().contains("apt-get install busybox-static"));
        assert!(list(&image.archive).contains(&"tmp/".to_owned()));
    }

    #[test]
    fn dynamic_busybox_counts_as_missing() {
        let dynamic = fs::read("/bin/sh").unwrap();
        assert!(!is_static(&dynamic));
        assert!(is_static(&fs::read(BUSYBOX).unwrap()));
        assert!(!is_static(b"#!/bin/sh"));
        assert!(!is_static(b"\x7fELF\x02\x01"));
    }

    #[test]
    fn configured_file_is_taken_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("root.tar");
        fs::write(&path, b"anything").unwrap();
        let image = RootImage::load(Some(&path)).unwrap();
        assert!(image.archive.starts_with(b"anything") && image.archive.len() == 4096);
        assert!(RootImage::load(Some(&folder.path().join("none"))).is_err());
    }

    /// What `tar` reads in an archive.
    fn list(archive: &[u8]) -> Vec<String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), archive).unwrap();
        let output =
            std::process::Command::new("tar").arg("-tf").arg(file.path()).output().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
    }
}
