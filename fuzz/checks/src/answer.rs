//! What a node answers, read as a client reads it: a frame is never used beyond its length, and
//! what was read means the same once it was written and read again.

use pilotlight::socket::answer::Answer;
use pilotlight::socket::frame::{FRAME_BYTES_MAX, Header};

/// Bytes of a text for people that are sent; a longer one is cut when it is written again.
const TEXT_BYTES_MAX: usize = 4096;

/// `data` is all a node sends.
pub fn check(data: &[u8]) -> bool {
    let (mut rest, mut is_answer) = (data, false);
    while let Ok(Some(header)) = Header::decode(rest) {
        assert!(header.length <= FRAME_BYTES_MAX, "memory for a frame is bounded");
        let end = Header::BYTES + header.length;
        let Some(payload) = rest.get(Header::BYTES..end) else { break };
        if let Ok(answer) = Answer::decode(header, payload) {
            is_answer = true;
            again(header, payload, answer);
        }
        rest = &rest[end..];
    }
    is_answer
}

fn again(header: Header, payload: &[u8], answer: Answer<'_>) {
    let is_cut = match answer {
        Answer::Outcome(it) => it.reason.len().max(it.log_reason.len()) > TEXT_BYTES_MAX,
        Answer::Error { message, .. } => message.len() > TEXT_BYTES_MAX,
        Answer::Hello(_)
        | Answer::Response(_)
        | Answer::Log(_)
        | Answer::Reply(_)
        | Answer::Attached(_) => false,
    };
    let mut bytes = b"before".to_vec();
    let appended = answer.append(&mut bytes, header.id, header.has_more());
    assert_eq!(appended, Ok(()), "what came in a frame fits one");
    let frame = &bytes[b"before".len()..];
    let read = Header::decode(frame).ok().flatten();
    assert!(read.is_some_and(|again| again.length == frame.len() - Header::BYTES));
    let Some(again) = read else { return };
    assert_eq!(again.kind, header.kind);
    // Of a later version there may be more, which is passed over.
    assert!(again.length <= payload.len(), "nothing is added");
    let read = Answer::decode(again, &frame[Header::BYTES..]);
    assert!(is_cut && read.is_ok() || read == Ok(answer), "it means the same");
}
