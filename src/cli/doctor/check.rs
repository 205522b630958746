//! One thing that was looked at.

use serde_json::{Value, json};

/// What it means for a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// As it should be.
    Ok,
    /// A node runs, but could be better off.
    Note,
    /// No node runs.
    Lack,
}

/// One thing that was looked at.
#[derive(Clone, Debug)]
pub(super) struct Check {
    /// Stable name.
    pub(super) name: &'static str,
    pub(super) verdict: Verdict,
    finding: String,
    /// What to do, when it is not as it should be.
    fix: Option<String>,
}

impl Check {
    /// As it should be.
    pub(super) fn ok(name: &'static str, finding: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Ok, finding: finding.into(), fix: None }
    }

    /// Could be better.
    pub(super) fn note(
        name: &'static str,
        finding: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        let fix = Some(fix.into());
        Self { name, verdict: Verdict::Note, finding: finding.into(), fix }
    }

    /// Keeps a node from running.
    pub(super) fn lack(
        name: &'static str,
        finding: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Self { verdict: Verdict::Lack, ..Self::note(name, finding, fix) }
    }

    /// For people: a line, and a second one with the fix.
    pub(super) fn text(&self) -> String {
        let word = match self.verdict {
            Verdict::Ok => "ok",
            Verdict::Note => "note",
            Verdict::Lack => "LACK",
        };
        let mut text = format!("{word:<5} {:<12} {}\n", self.name, self.finding);
        if let Some(fix) = &self.fix {
            text += &format!("{:18} fix: {fix}\n", "");
        }
        text
    }

    /// For programs.
    pub(super) fn object(&self) -> Value {
        let verdict = match self.verdict {
            Verdict::Ok => "ok",
            Verdict::Note => "note",
            Verdict::Lack => "lack",
        };
        json!({
            "name": self.name,
            "verdict": verdict,
            "finding": self.finding,
            "fix": self.fix,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lack_comes_with_its_fix() {
        let check = Check::lack("kvm", "there is none", "modprobe kvm");
        assert_eq!(
            check.text(),
            "LACK  kvm          there is none\n                   fix: modprobe kvm\n"
        );
        assert_eq!(check.object()["verdict"], "lack");
        assert_eq!(Check::ok("kvm", "there").object()["fix"], Value::Null);
    }
}
