//! What a path stands for when it is executed: a script is followed to its interpreter, a dynamic
//! program comes with its loader.

use alloc::rc::Rc;
use alloc::vec::Vec;

use super::exec::{self, LoadError};
use super::script::{self, HEAD_BYTES};
use crate::elf::Program;
use crate::errno::Errno;
use crate::file::OpenFile;
use crate::memory::Sink;

/// Scripts whose interpreter is a script, one in another, as on Linux.
const SCRIPTS_MAX: usize = 5;

/// How files are opened.
pub type Open<'a> = dyn Fn(&[u8]) -> Result<Rc<OpenFile>, Errno> + 'a;

/// A file and the program in it.
#[derive(Debug)]
pub struct Binary {
    /// The file.
    pub file: Rc<OpenFile>,
    /// What its headers say.
    pub program: Program,
}

/// What is to run.
#[derive(Debug)]
pub struct Executable {
    /// Path it was found at: for a script its own, not its interpreter's.
    pub path: Vec<u8>,
    /// Its arguments, its name first.
    pub arguments: Vec<Vec<u8>>,
    /// The program.
    pub binary: Binary,
    /// What runs first and links it.
    pub loader: Option<Binary>,
}

impl Executable {
    /// Reads `file`, found at `path`; `open` opens what it names.
    ///
    /// # Errors
    /// Why it cannot be executed.
    pub fn read(
        mut file: Rc<OpenFile>,
        path: Vec<u8>,
        mut arguments: Vec<Vec<u8>>,
        open: &Open<'_>,
    ) -> Result<Self, LoadError> {
        let mut script_path = path.clone();
        for depth in 0.. {
            exec::check(&file)?;
            let mut head = [0; HEAD_BYTES];
            let count = file.read_at(0, &mut Sink::kernel(&mut head))?;
            let bad_line = |error| LoadError::File("its first line names no interpreter", error);
            let Some(script) = script::parse(&head[..count]).map_err(bad_line)? else { break };
            if depth == SCRIPTS_MAX {
                return Err(LoadError::File("too many scripts interpret scripts", Errno::LOOP));
            }
            script.interpret(&script_path, &mut arguments);
            script_path = script.interpreter;
            file = open(&script_path).map_err(|error| {
                LoadError::File("it is a script, and its interpreter is not there", error)
            })?;
        }
        let binary = Binary::read(file)?;
        let loader = match binary.loader_path()? {
            Some(path) => {
                let file = open(&path).map_err(|error| {
                    LoadError::File(
                        "it is dynamically linked, and the loader it names is not there: link it \
                         statically, or use a component that has it",
                        error,
                    )
                })?;
                Some(Binary::read(file)?)
            }
            None => None,
        };
        if loader.as_ref().is_some_and(|loader| loader.program.is_fixed) {
            return Err(LoadError::File("its loader cannot be placed", Errno::NOEXEC));
        }
        Ok(Self { path, arguments, binary, loader })
    }
}

impl Binary {
    fn read(file: Rc<OpenFile>) -> Result<Self, LoadError> {
        let program = exec::read_program(&file)?;
        Ok(Self { file, program })
    }

    fn loader_path(&self) -> Result<Option<Vec<u8>>, LoadError> {
        let Some((offset, count)) = self.program.interpreter else { return Ok(None) };
        let mut path = alloc::vec![0; count];
        if exec::read_full(&self.file, offset, &mut path)? != count || path.pop() != Some(0) {
            let reason = "the path of its loader is cut short or none";
            return Err(LoadError::File(reason, Errno::NOEXEC));
        }
        Ok(Some(path))
    }
}
