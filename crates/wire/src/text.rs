//! Makes texts of a guest fit to be shown: on a terminal, in one line of a log, in a record.
//!
//! A guest may write anything into a text: escape sequences that colour or clear a terminal, newlines that imitate a
//! further line of a log, characters that turn the direction of writing. Each text of a guest goes through [`shown`]
//! once, where it enters a program of the host. Only `logs` has the bytes as they came.

/// The number of characters that are kept of a text of a guest, because the text goes into records that are stored for
/// long and into lines that people read.
pub const TEXT_CAP: usize = 256;

/// Returns a text without control characters, cut to [`TEXT_CAP`] characters. A control character becomes its escape,
/// such as `\n` or `\x1b`. A text that was returned by this function stays as it is.
pub fn shown(text: &str) -> String {
    shown_up_to(text, TEXT_CAP)
}

/// Returns a text as [`shown`] does, cut to `cap` characters. No escape is cut in two.
pub fn shown_up_to(text: &str, cap: usize) -> String {
    let mut shown = String::with_capacity(text.len().min(cap));
    let mut left = cap;
    for character in text.chars() {
        let escape = escape_of(character);
        let length = escape.as_ref().map_or(1, String::len);
        let Some(rest) = left.checked_sub(length) else { break };
        left = rest;
        match escape {
            Some(escape) => shown.push_str(&escape),
            None => shown.push(character),
        }
    }
    shown
}

/// Returns the escape of a character that moves, colours, hides or reorders text; `None` for all others.
fn escape_of(character: char) -> Option<String> {
    match character {
        '\n' => Some("\\n".to_owned()),
        '\r' => Some("\\r".to_owned()),
        '\t' => Some("\\t".to_owned()),
        control if control.is_ascii_control() => Some(format!("\\x{:02x}", u32::from(control))),
        other if other.is_control() || is_invisible(other) => Some(format!("\\u{{{:x}}}", u32::from(other))),
        _ => None,
    }
}

/// Returns whether a character has no width, separates lines, or changes the direction of writing.
fn is_invisible(character: char) -> bool {
    matches!(
        character,
        '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e007f}'
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_would_move_a_terminal_is_shown_as_its_escape() {
        assert_eq!(shown("\x1b[31mred\x07\n\ttab\r\x7f"), "\\x1b[31mred\\x07\\n\\ttab\\r\\x7f");
        assert_eq!(shown("c1 \u{9b}2J, bidi \u{202e}"), "c1 \\u{9b}2J, bidi \\u{202e}");
        assert_eq!(shown("Grüße, 東京 \\x1b"), "Grüße, 東京 \\x1b");
    }

    #[test]
    fn a_long_text_is_cut_between_two_characters_and_never_in_an_escape() {
        assert_eq!(shown(&"ü".repeat(1000)), "ü".repeat(TEXT_CAP));
        assert_eq!(shown_up_to("ab\x1b[0m", 5), "ab");
        assert_eq!(shown_up_to("ab\x1b[0m", 6), "ab\\x1b");
    }

    proptest! {
        #[test]
        fn no_text_keeps_a_control_character_and_a_second_time_changes_nothing(text in any::<String>()) {
            let once = shown(&text);
            prop_assert!(once.chars().count() <= TEXT_CAP);
            prop_assert!(!once.chars().any(|c| c.is_control() || is_invisible(c)));
            prop_assert_eq!(shown(&once), once);
        }
    }
}
