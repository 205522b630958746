//! Makes a package of a program on this machine's disk: an ELF file as it is, a directory as a
//! tar archive.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::archive::Archive;
use crate::code::Code;
use crate::socket::settings::{PackageForm, Settings};

/// Name of the executable in a directory that is deployed.
pub const BOOTSTRAP: &str = "bootstrap";
/// Folders inside folders that are followed; more is taken for a loop.
const DEPTH_MAX: usize = 64;

/// A program ready to be deployed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Package {
    /// How it is to run.
    pub settings: Settings,
    /// The ELF file or the tar archive.
    pub bytes: Vec<u8>,
}

/// Why a path is no program.
#[derive(Debug)]
pub enum PackageError {
    /// It cannot be read.
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// It is a `#!` script.
    Script {
        /// Which file.
        path: PathBuf,
    },
    /// It is neither an ELF file nor a directory.
    NotAProgram {
        /// Which file.
        path: PathBuf,
    },
    /// A directory has no executable `bootstrap`.
    NoBootstrap {
        /// Which.
        path: PathBuf,
    },
    /// Its name, or a name in it, cannot be stored.
    BadName {
        /// Which.
        path: PathBuf,
    },
}

impl PackageError {
    /// Its stable code.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Script { .. } => Code::Script,
            Self::BadName { .. } => Code::BadName,
            Self::NotAProgram { .. } | Self::NoBootstrap { .. } => Code::BadPackage,
            Self::Unreadable { .. } => Code::Failed,
        }
    }
}

impl Package {
    /// Reads the program at `path`: an ELF file, or a directory with an executable `bootstrap`.
    ///
    /// # Errors
    /// [`PackageError`] says what the path lacks.
    pub fn read(path: &Path) -> Result<Self, PackageError> {
        let metadata = fs::metadata(path).map_err(|source| unreadable(path, source))?;
        if metadata.is_dir() { Self::of_directory(path) } else { Self::of_file(path) }
    }

    /// The program in `bytes`, an ELF file called `entry`.
    #[must_use]
    pub fn of_elf(entry: &str, bytes: &[u8]) -> Self {
        let settings = Settings { entry: entry.to_owned(), ..Settings::default() };
        Self { settings, bytes: bytes.to_owned() }
    }

    fn of_file(path: &Path) -> Result<Self, PackageError> {
        let bytes = fs::read(path).map_err(|source| unreadable(path, source))?;
        if bytes.starts_with(b"#!") {
            return Err(PackageError::Script { path: path.to_owned() });
        }
        if !bytes.starts_with(b"\x7fELF") {
            return Err(PackageError::NotAProgram { path: path.to_owned() });
        }
        let name = path.file_name().and_then(|name| name.to_str());
        let name = name.ok_or_else(|| PackageError::BadName { path: path.to_owned() })?;
        Ok(Self::of_elf(name, &bytes))
    }

    fn of_directory(path: &Path) -> Result<Self, PackageError> {
        let bootstrap = path.join(BOOTSTRAP);
        let is_executable = fs::metadata(&bootstrap)
            .is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0);
        if !is_executable {
            return Err(PackageError::NoBootstrap { path: path.to_owned() });
        }
        let mut archive = Archive::new();
        add_folder(&mut archive, path, "", DEPTH_MAX)?;
        let settings = Settings {
            entry: BOOTSTRAP.to_owned(),
            argv0: base_name(path)?,
            package: PackageForm::Tar,
            ..Settings::default()
        };
        Ok(Self { settings, bytes: archive.finish() })
    }
}

/// The last name of a path, `.` and `..` looked up.
fn base_name(path: &Path) -> Result<String, PackageError> {
    let path = fs::canonicalize(path).map_err(|source| unreadable(path, source))?;
    let name = path.file_name().and_then(|name| name.to_str());
    name.map(str::to_owned).ok_or(PackageError::BadName { path })
}

/// Adds what is in `folder`, in the order of names, so that equal trees give equal archives.
fn add_folder(
    archive: &mut Archive,
    folder: &Path,
    prefix: &str,
    depth: usize,
) -> Result<(), PackageError> {
    let bad_name = |path: &Path| PackageError::BadName { path: path.to_owned() };
    let entries = fs::read_dir(folder).and_then(Iterator::collect::<io::Result<Vec<_>>>);
    let mut entries = entries.map_err(|source| unreadable(folder, source))?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        let name = entry.file_name();
        let name = name.to_str().ok_or_else(|| bad_name(&path))?;
        let name = format!("{prefix}{name}");
        let metadata = entry.metadata().map_err(|source| unreadable(&path, source))?;
        let mode = metadata.permissions().mode() & 0o777;
        let added = if metadata.is_symlink() {
            let target = fs::read_link(&path).map_err(|source| unreadable(&path, source))?;
            archive.link(&name, target.to_str().ok_or_else(|| bad_name(&path))?)
        } else if metadata.is_dir() {
            let depth = depth.checked_sub(1).ok_or_else(|| bad_name(&path))?;
            archive.folder(&name, mode).map_err(|_| bad_name(&path))?;
            add_folder(archive, &path, &format!("{name}/"), depth)?;
            Ok(())
        } else if metadata.is_file() {
            let bytes = fs::read(&path).map_err(|source| unreadable(&path, source))?;
            archive.file(&name, mode, &bytes)
        } else {
            // Sockets, pipes and devices are no part of a program.
            Ok(())
        };
        added.map_err(|_| bad_name(&path))?;
    }
    Ok(())
}

fn unreadable(path: &Path, source: io::Error) -> PackageError {
    PackageError::Unreadable { path: path.to_owned(), source }
}

impl fmt::Display for PackageError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable { path, source } => {
                write!(formatter, "{} cannot be read: {source}", path.display())
            }
            Self::Script { path } => write!(
                formatter,
                "{} is a script; deploy its interpreter, a static ELF file, with the script in a \
                 directory beside it and its path as an argument",
                path.display()
            ),
            Self::NotAProgram { path } => {
                write!(formatter, "{} is no ELF file; deploy a program", path.display())
            }
            Self::NoBootstrap { path } => write!(
                formatter,
                "{0} has no executable file `{BOOTSTRAP}`; add one, and `chmod +x {0}/{BOOTSTRAP}`",
                path.display()
            ),
            Self::BadName { path } => write!(
                formatter,
                "{} cannot be packed: its name is too long, nested too deep or not UTF-8",
                path.display()
            ),
        }
    }
}

impl std::error::Error for PackageError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Unreadable { source, .. } => Some(source),
            Self::Script { .. }
            | Self::NotAProgram { .. }
            | Self::NoBootstrap { .. }
            | Self::BadName { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_needs_an_executable_bootstrap() {
        let folder = tempfile::tempdir().unwrap();
        let bootstrap = folder.path().join(BOOTSTRAP);
        fs::write(&bootstrap, b"#!/bin/busybox sh\n").unwrap();
        let refused = Package::read(folder.path()).unwrap_err();
        assert!(refused.to_string().contains("chmod +x"), "{refused}");
        fs::set_permissions(&bootstrap, fs::Permissions::from_mode(0o755)).unwrap();
        fs::create_dir(folder.path().join("lib")).unwrap();
        fs::write(folder.path().join("lib/data"), b"data").unwrap();
        let package = Package::read(folder.path()).unwrap();
        assert_eq!(package.settings.package, PackageForm::Tar);
        assert_eq!(package, Package::read(folder.path()).unwrap());
        assert!(package.bytes.windows(4).any(|bytes| bytes == b"data"));
    }

    #[test]
    fn a_text_file_is_no_program() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), b"hello").unwrap();
        assert!(matches!(Package::read(file.path()), Err(PackageError::NotAProgram { .. })));
    }
}
