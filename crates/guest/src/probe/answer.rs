//! Reads the answer to a GET request (RFC 9112), as far as a probe wants to know it. Does no I/O.

/// The number of bytes that are kept of an answer: its head, and the begin of its body.
const CAP: usize = 16 * 1024;

/// The longest first line.
const LINE_CAP: usize = 1024;

/// The number of characters of a body that are told.
const BODY_CAP: usize = 512;

/// An answer, as far as it was read.
#[derive(Debug, Default)]
pub(super) struct Answer(Vec<u8>);

/// What the first bytes of an answer say.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Head {
    /// The first line is not complete.
    Incomplete,
    /// The bytes are no answer over HTTP, or its head is too long.
    NotHttp,
    /// The status of the answer.
    Status {
        /// The number of the status.
        code: u16,
        /// The status in words, as `HTTP 200 OK`.
        line: String,
    },
}

impl Answer {
    /// Adds bytes, as far as there is room. Returns the number of bytes that were added.
    pub(super) fn push(&mut self, bytes: &[u8]) -> usize {
        let taken = bytes.len().min(CAP - self.0.len());
        self.0.extend_from_slice(&bytes[..taken]);
        taken
    }

    /// Returns what is known of the status.
    pub(super) fn head(&self) -> Head {
        let is_full = self.0.len() == CAP;
        match self.last_head().map_or(Head::Incomplete, status) {
            Head::Incomplete if is_full => Head::NotHttp,
            known @ (Head::Incomplete | Head::NotHttp | Head::Status { .. }) => known,
        }
    }

    /// Returns the answer in words: its status, and the begin of its body.
    pub(super) fn in_words(&self) -> String {
        let Head::Status { line, .. } = self.head() else { return "no answer over HTTP".into() };
        let rest = self.last_head().unwrap_or_default();
        let Some(end) = end_of_head(rest) else { return line };
        let (head, body) = rest.split_at(end);
        let body = if is_chunked(head) { first_chunk(body) } else { body };
        let text = String::from_utf8_lossy(body);
        match text.trim() {
            "" => line,
            text => format!("{line}: {}", text.chars().take(BODY_CAP).collect::<String>()),
        }
    }

    /// Returns the bytes from the head of the final answer on; `None` while they have not come. An answer may be preceded by
    /// others with a status of 1xx.
    fn last_head(&self) -> Option<&[u8]> {
        let mut rest = self.0.as_slice();
        while let Head::Status { code: 100..=199, .. } = status(rest) {
            rest = &rest[end_of_head(rest)?..];
        }
        Some(rest)
    }
}

fn status(bytes: &[u8]) -> Head {
    const VERSION: &[u8] = b"HTTP/1.";
    let known = bytes.len().min(VERSION.len());
    if bytes[..known] != VERSION[..known] {
        return Head::NotHttp;
    }
    let Some(end) = bytes.iter().take(LINE_CAP).position(|byte| *byte == b'\n') else {
        return if bytes.len() < LINE_CAP { Head::Incomplete } else { Head::NotHttp };
    };
    let line = String::from_utf8_lossy(&bytes[..end]);
    let Some((_, rest)) = line.trim_end().split_once(' ') else { return Head::NotHttp };
    let code = rest.split(' ').next().filter(|code| code.len() == 3).and_then(|code| code.parse().ok());
    match code {
        Some(code) => Head::Status { code, line: format!("HTTP {}", rest.trim_end()) },
        None => Head::NotHttp,
    }
}

/// Returns where the head ends and the body begins.
fn end_of_head(bytes: &[u8]) -> Option<usize> {
    const END: &[u8] = b"\r\n\r\n";
    bytes.windows(END.len()).position(|window| window == END).map(|at| at + END.len())
}

fn is_chunked(head: &[u8]) -> bool {
    String::from_utf8_lossy(head).lines().any(|line| {
        let line = line.to_ascii_lowercase();
        line.starts_with("transfer-encoding:") && line.contains("chunked")
    })
}

/// Returns the contents of the first chunk of a body that is sent in chunks.
fn first_chunk(body: &[u8]) -> &[u8] {
    let Some(end) = body.windows(2).position(|window| window == b"\r\n") else { return &[] };
    let size = std::str::from_utf8(&body[..end]).unwrap_or_default();
    let size = size.split(';').next().and_then(|size| usize::from_str_radix(size.trim(), 16).ok());
    let contents = &body[end + 2..];
    &contents[..size.unwrap_or_default().min(contents.len())]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn answer(bytes: &[u8]) -> Answer {
        let mut answer = Answer::default();
        answer.push(bytes);
        answer
    }

    fn known(code: u16, line: &str) -> Head {
        Head::Status { code, line: line.into() }
    }

    #[test]
    fn the_first_line_tells_the_status() {
        assert_eq!(answer(b"HTTP/1.1 200 OK\r\n").head(), known(200, "HTTP 200 OK"));
        assert_eq!(answer(b"HTTP/1.0 404\n").head(), known(404, "HTTP 404"));
        assert_eq!(answer(b"HTTP/1.1 200 O").head(), Head::Incomplete);
        assert_eq!(answer(b"HT").head(), Head::Incomplete);
        for bytes in
            [&b"HTTX"[..], b"HTTP/2 200\r\n", b"HTTP/1.1 20\r\n", b"HTTP/1.1\r\n", b"HTTP/1.1 abc\r\n"]
        {
            assert_eq!(answer(bytes).head(), Head::NotHttp, "{}", String::from_utf8_lossy(bytes));
        }
        let long = [&b"HTTP/1.1 200 "[..], &[b'x'; LINE_CAP]].concat();
        assert_eq!(answer(&long).head(), Head::NotHttp);
    }

    #[test]
    fn an_answer_that_comes_before_the_answer_is_skipped() {
        let hints = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n";
        assert_eq!(answer(hints).head(), Head::Incomplete);
        let both = [&hints[..], b"HTTP/1.1 500 Broken\r\n\r\nwhy"].concat();
        assert_eq!(answer(&both).head(), known(500, "HTTP 500 Broken"));
        assert_eq!(answer(&both).in_words(), "HTTP 500 Broken: why");
        assert_eq!(answer(&hints.repeat(1000)).head(), Head::NotHttp, "without an end");
    }

    #[test]
    fn the_body_is_told_in_part() {
        assert_eq!(answer(b"HTTP/1.1 503 Busy\r\nX: y\r\n\r\n \n").in_words(), "HTTP 503 Busy");
        assert_eq!(answer(b"HTTP/1.1 503 Busy\r\nX: y").in_words(), "HTTP 503 Busy");
        let chunked = b"HTTP/1.1 503 Busy\r\nTransfer-Encoding: Chunked\r\n\r\n7;x=y\r\nloading\r\n0\r\n\r\n";
        assert_eq!(answer(chunked).in_words(), "HTTP 503 Busy: loading");
        let long = [&b"HTTP/1.1 503 Busy\r\n\r\n"[..], &[b'x'; 100_000]].concat();
        assert_eq!(answer(&long).in_words().len(), "HTTP 503 Busy: ".len() + BODY_CAP);
    }

    proptest! {
        #[test]
        fn no_answer_panics_and_what_is_told_is_bounded(
            start in prop_oneof!["", "HTTP/1\\.[01] [0-9]{0,4}[ a-z]{0,9}\r\n", "HTTP/1.1 503 x\r\nTransfer-Encoding: chunked\r\n\r\n"],
            rest in proptest::collection::vec(any::<u8>(), 0..3000),
        ) {
            let answer = answer(&[start.as_bytes(), &rest].concat());
            let told = match answer.head() {
                Head::Status { line, .. } => line.len() + answer.in_words().chars().count(),
                Head::Incomplete | Head::NotHttp => 0,
            };
            prop_assert!(told <= 8 * LINE_CAP);
        }
    }
}
