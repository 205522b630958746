//! A program loaded before its first request, so that a snapshot of its VM has it.

use alloc::rc::Rc;
use alloc::string::{String, ToString};

use abi::frame::Header;
use abi::frame::outcome::{self, Outcome, Status};
use abi::wire::Writer;

use super::{Container, OUTCOME_HEAD_MAX, Package, Shared, cut, view};
use crate::filesystem::{Image, tree};
use crate::memory::Account;
use crate::process::Processes;
use crate::rings::Rings;

impl Container {
    /// Brings its program to where a snapshot can be taken: loaded, its pages made, no instruction
    /// run. What its first request brings (environment, credentials, random bytes) it gets then;
    /// one that is copied for each request initialises itself then too.
    pub fn prepare(&mut self, id: u64) {
        self.prepares = Some(id);
    }

    /// Loads the program a PREPARE frame asked for and answers it.
    pub fn load(
        &mut self,
        shared: &Shared,
        package: &Package,
        processes: &mut Processes,
        rings: &mut Rings,
    ) {
        let Some(id) = self.prepares.filter(|_| rings.outcome.has_room()) else { return };
        self.prepares = None;
        let loaded = match package {
            Ok(image) => self.load_image(shared, image, processes),
            Err(reason) => Err((*reason).to_string()),
        };
        let (status, reason) = match loaded {
            Ok(()) => (Status::Exited, String::new()),
            Err(reason) => (Status::NotExecutable, reason),
        };
        let outcome = Outcome {
            status,
            detail: 0,
            log_records: 0,
            run_nanos: 0,
            memory_peak_bytes: self.image.as_ref().map_or(0, |it| it.account().peak_bytes()),
            dirty_pages: 0,
            reason: cut(&reason),
            response: &[],
        };
        let mut head = [0; OUTCOME_HEAD_MAX];
        let mut writer = Writer::new(&mut head);
        assert!(outcome.encode(&mut writer).is_ok(), "room for the head");
        let length = writer.length();
        let header = Header { kind: outcome::PREPARED, flags: 0, channel: self.number, id };
        rings.outcome.push(header, &[&head[..length]]);
    }

    /// Meets the pages of a program that was loaded, in a VM restored from a snapshot of it.
    pub fn touch(&self) {
        if let Some(image) = &self.image {
            image.touch();
        }
    }

    fn load_image(
        &mut self,
        shared: &Shared,
        image: &Rc<Image>,
        processes: &mut Processes,
    ) -> Result<(), String> {
        let account = Account::new(self.settings.memory_bytes);
        let view = view(shared, image, &account)?;
        let path = [tree::PACKAGE, b"/", &self.settings.entry].concat();
        let is_held = self.rewinds(0).is_some();
        self.image = Some(processes.load(&view, account, &path, is_held)?);
        Ok(())
    }
}
