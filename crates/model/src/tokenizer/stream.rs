//! Text as it comes, token by token.
//!
//! A token can end in the middle of a character, and the text so far can end in the middle of a stop string; both are
//! held back until more is known. What is given out is the text up to the first stop string and no more.

/// Joins the bytes of generated tokens into text.
///
/// Every piece that [`push`](TextStream::push) returns is whole characters; bytes that are no UTF-8 come out as
/// U+FFFD, as in [`String::from_utf8_lossy`].
#[derive(Clone, Debug, Default)]
pub struct TextStream {
    stop_strings: Vec<String>,
    /// The beginning of a character: at most 3 bytes.
    partial_char: Vec<u8>,
    /// Text that may turn out to begin a stop string: shorter than the longest of them.
    held: String,
    hit: Option<usize>,
}

impl TextStream {
    /// A stream that ends before the first of `stop_strings` to appear. Empty ones are ignored.
    pub fn new(stop_strings: impl IntoIterator<Item = impl Into<String>>) -> TextStream {
        TextStream {
            stop_strings: stop_strings.into_iter().map(Into::into).collect(),
            ..TextStream::default()
        }
    }

    /// Takes the bytes of the next token (see [`Tokenizer::token_bytes`](super::Tokenizer::token_bytes)) and returns
    /// the text that is now certain; nothing once a stop string was hit.
    pub fn push(&mut self, token: &[u8]) -> String {
        if self.hit.is_some() {
            return String::new();
        }
        self.partial_char.extend_from_slice(token);
        let bytes = std::mem::take(&mut self.partial_char);
        let mut chunks = bytes.utf8_chunks().peekable();
        while let Some(chunk) = chunks.next() {
            self.held.push_str(chunk.valid());
            let invalid = chunk.invalid();
            if chunks.peek().is_none() && may_become_char(invalid) {
                self.partial_char.extend_from_slice(invalid);
            } else if !invalid.is_empty() {
                self.held.push(char::REPLACEMENT_CHARACTER);
            }
        }
        self.release()
    }

    /// Ends the stream and returns what was held back.
    pub fn finish(&mut self) -> String {
        if self.hit.is_some() {
            return String::new();
        }
        let mut text = String::new();
        if !std::mem::take(&mut self.partial_char).is_empty() {
            self.held.push(char::REPLACEMENT_CHARACTER);
            text = self.release();
        }
        text.push_str(&std::mem::take(&mut self.held));
        text
    }

    /// The stop string that ended the stream.
    pub fn stop_hit(&self) -> Option<&str> {
        self.hit.map(|idx| self.stop_strings[idx].as_str())
    }

    /// Takes from `held` what is before a stop string and cannot begin one.
    fn release(&mut self) -> String {
        let stops = self.stop_strings.iter().enumerate().filter(|(_, stop)| !stop.is_empty());
        let first = stops.clone().filter_map(|(idx, stop)| Some((self.held.find(stop.as_str())?, idx))).min();
        if let Some((position, idx)) = first {
            self.hit = Some(idx);
            self.partial_char.clear();
            self.held.truncate(position);
            return std::mem::take(&mut self.held);
        }
        let n_held = stops.map(|(_, stop)| overlap(&self.held, stop)).max().unwrap_or(0);
        let rest = self.held.split_off(self.held.len() - n_held);
        std::mem::replace(&mut self.held, rest)
    }
}

/// Whether more bytes can make a character of `bytes`, an ill-formed sequence at the end of the text.
fn may_become_char(bytes: &[u8]) -> bool {
    // The standard library reports the end of a text that could go on as an error without a length.
    std::str::from_utf8(bytes).is_err_and(|error| error.valid_up_to() == 0 && error.error_len().is_none())
}

/// Bytes of the longest end of `text` that begins `stop` without being all of it.
fn overlap(text: &str, stop: &str) -> usize {
    let starts = stop.char_indices().map(|(start, _)| start).rev();
    starts
        .filter(|&len| len <= text.len())
        .find(|&len| text.as_bytes().ends_with(&stop.as_bytes()[..len]))
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(stops: &[&str], tokens: &[&[u8]]) -> (Vec<String>, String, Option<String>) {
        let mut stream = TextStream::new(stops.iter().copied());
        let pieces = tokens.iter().map(|token| stream.push(token)).collect();
        let rest = stream.finish();
        (pieces, rest, stream.stop_hit().map(String::from))
    }

    #[test]
    fn gives_out_whole_characters_only() {
        let (pieces, rest, _) = run(&[], &[b"a\xf0", b"\x9f", b"\x98\x80b", b"\xc3", b"\xa9"]);
        assert_eq!(
            (pieces, rest.as_str()),
            (vec!["a".into(), "".into(), "😀b".into(), "".into(), "é".into()], "")
        );
    }

    #[test]
    fn bytes_that_are_no_utf8_become_replacement_characters_as_in_the_whole_text() {
        let bytes = b"\xffa\xf0\x9f\xc3(\xe2\x82\xed\xa0\x80\xc3\xa9\xf0\x9f\x98";
        for cut in 1..bytes.len() {
            let mut stream = TextStream::default();
            let text: String = bytes.chunks(cut).map(|chunk| stream.push(chunk)).collect();
            assert_eq!(text + &stream.finish(), String::from_utf8_lossy(bytes), "pieces of {cut} bytes");
        }
    }

    #[test]
    fn holds_back_what_may_begin_a_stop_string() {
        let (pieces, rest, hit) =
            run(&["</s>", "END"], &[b"one <", b"/b> t", b"wo </", b"s> three", b"four"]);
        assert_eq!(pieces, ["one ", "</b> t", "wo ", "", ""]);
        assert_eq!((rest.as_str(), hit.as_deref()), ("", Some("</s>")));
    }

    #[test]
    fn gives_out_at_the_end_what_was_no_stop_string() {
        let (pieces, rest, hit) = run(&["</s>"], &[b"a </s"]);
        assert_eq!((pieces, rest.as_str(), hit), (vec!["a ".to_string()], "</s", None));
    }

    #[test]
    fn the_first_stop_string_in_the_text_counts() {
        let (pieces, _, hit) = run(&["late", "", "b"], &[b"abc late"]);
        assert_eq!((pieces, hit.as_deref()), (vec!["a".to_string()], Some("b")));
    }

    #[test]
    fn any_cut_of_the_text_gives_the_same() {
        let text = "aXéXé!aXéX…é stop";
        for stop in ["XéX…", "Xé!", "é s", "nothing", "p"] {
            let expected = text.split(stop).next().unwrap();
            for cut in 1..text.len() {
                let mut stream = TextStream::new([stop]);
                let mut got: String = text.as_bytes().chunks(cut).map(|chunk| stream.push(chunk)).collect();
                got += &stream.finish();
                assert_eq!(got, expected, "{stop:?} in pieces of {cut} bytes");
                assert_eq!(stream.stop_hit().is_some(), text.contains(stop));
            }
        }
    }
}
