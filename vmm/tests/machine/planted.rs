//! With the feature `planted-reset-bug` a reset forgets one page: the verifier has to find it.

use crate::cell::Answer;
use crate::{ask, guest, restored};

#[test]
fn a_page_left_as_it_was_is_found() {
    let cell = restored();
    assert_eq!(ask(&cell, guest::DIRTY, 3), 1);
    cell.reset(2, u64::MAX);
    let answer = cell.answer();
    let Answer::Gone(2, reason) = answer else { panic!("not found: {answer:?}") };
    assert!(reason.starts_with("reset left page 0x") && reason.ends_with(" different"), "{reason}");
    assert_eq!(cell.answer(), Answer::Closed, "such a VM never runs again");
}
