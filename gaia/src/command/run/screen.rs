//! A log on standard output: byte for byte into a file or a pipe, inert on a terminal.
//!
//! What a pipeline prints may move the cursor, write over lines that were there, set the title, fill the
//! clipboard or the input. On a terminal such sequences are shown and not obeyed, as `less -R` does it: colours
//! pass, and end with their line.

use std::{
    fmt::Write as _,
    io::{self, IsTerminal, Write},
};

use anyhow::{Context, Result};

/// Longer ones are no colours.
const LONGEST: usize = 32;

pub(crate) struct Screen {
    /// Where it is a terminal.
    inert: Option<Inert>,
}

impl Screen {
    /// `raw`: the terminal too gets the bytes as they are.
    pub(crate) fn new(raw: bool) -> Self {
        let is_tame = raw || !io::stdout().is_terminal();
        Self { inert: (!is_tame).then(Inert::default) }
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let Some(inert) = &mut self.inert else { return print(bytes) };
        let shown = inert.push(&String::from_utf8_lossy(bytes));
        print(shown.as_bytes())
    }

    /// Nothing more comes.
    pub(crate) fn end(self) -> Result<()> {
        self.inert.map_or(Ok(()), |mut inert| print(inert.end().as_bytes()))
    }
}

fn print(bytes: &[u8]) -> Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).context("write the log")
}

/// Makes text inert, in pieces.
#[derive(Default)]
struct Inert {
    /// What may become a colour, or the end of a line.
    held: String,
    is_coloured: bool,
}

impl Inert {
    fn push(&mut self, text: &str) -> String {
        let mut shown = String::with_capacity(text.len());
        for it in text.chars() {
            self.take(it, &mut shown);
        }
        shown
    }

    fn take(&mut self, it: char, shown: &mut String) {
        match (self.held.as_str(), it) {
            ("", '\r' | '\u{1b}') | ("\u{1b}", '[') => self.held.push(it),
            ("", '\n') => self.end_line(shown),
            ("", it) => reveal(it, shown),
            ("\r", '\n') => {
                self.held.clear();
                self.end_line(shown);
            }
            (held, '0'..='9' | ';' | ':') if is_sequence(held) && held.len() < LONGEST => {
                self.held.push(it);
            }
            (held, 'm') if is_sequence(held) => {
                shown.push_str(held);
                shown.push(it);
                self.held.clear();
                self.is_coloured = true;
            }
            _ => {
                self.let_go(shown);
                self.take(it, shown);
            }
        }
    }

    /// It was neither.
    fn let_go(&mut self, shown: &mut String) {
        for it in std::mem::take(&mut self.held).chars() {
            reveal(it, shown);
        }
    }

    fn end_line(&mut self, shown: &mut String) {
        self.uncolour(shown);
        shown.push('\n');
    }

    fn uncolour(&mut self, shown: &mut String) {
        if std::mem::take(&mut self.is_coloured) {
            shown.push_str("\u{1b}[0m");
        }
    }

    fn end(&mut self) -> String {
        let mut shown = String::new();
        self.let_go(&mut shown);
        self.uncolour(&mut shown);
        shown
    }
}

fn is_sequence(held: &str) -> bool {
    held.starts_with("\u{1b}[")
}

/// The character, or what people write for one that a terminal obeys, as `less` does.
fn reveal(it: char, shown: &mut String) {
    match it {
        '\t' => shown.push(it),
        '\0'..='\u{1f}' => shown.extend(['^', char::from(it as u8 ^ 0x40)]),
        '\u{7f}' => shown.push_str("^?"),
        // Also what turns the direction of the text round.
        '\u{80}'..='\u{9f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
            write!(shown, "<U+{:04X}>", it as u32).expect("a String takes everything");
        }
        it => shown.push(it),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inert(text: &str) -> String {
        let mut inert = Inert::default();
        inert.push(text) + &inert.end()
    }

    #[test]
    fn what_a_terminal_would_obey_is_shown() {
        for (printed, shown) in [
            ("plain\ttext\n", "plain\ttext\n"),
            ("ends\r\nas in Windows\r\n", "ends\nas in Windows\n"),
            ("50 %\r100 %\n", "50 %^M100 %\n"),
            ("clear\u{1b}[2J\u{1b}[H", "clear^[[2J^[[H"),
            ("title\u{1b}]0;pwned\u{7}", "title^[]0;pwned^G"),
            ("clipboard\u{1b}]52;c;cm0=\u{1b}\\", "clipboard^[]52;c;cm0=^[\\"),
            ("answer\u{1b}[6n\u{1b}[c", "answer^[[6n^[[c"),
            ("\u{1b}\u{1b}[\u{1b}[1A", "^[^[[^[[1A"),
            ("eight bits \u{9b}2J\u{9d}0;x\u{9c}", "eight bits <U+009B>2J<U+009D>0;x<U+009C>"),
            ("nothing\0 back\u{8}\u{7f}", "nothing^@ back^H^?"),
            ("turned \u{202e}txet", "turned <U+202E>txet"),
            ("private \u{1b}[?1049h\u{1b}[>4;1m", "private ^[[?1049h^[[>4;1m"),
        ] {
            assert_eq!(inert(printed), shown);
        }
        let endless = format!("\u{1b}[{}m", "1;".repeat(1000));
        assert!(!inert(&endless).contains('\u{1b}'));
    }

    #[test]
    fn colours_pass_and_end_with_their_line() {
        assert_eq!(
            inert("\u{1b}[1;31mred\nplain \u{1b}[38:5:9mred"),
            "\u{1b}[1;31mred\u{1b}[0m\nplain \u{1b}[38:5:9mred\u{1b}[0m"
        );
    }

    #[test]
    fn it_is_the_same_however_the_text_is_cut() {
        let text = "a\u{1b}[31mb\u{1b}[2Jc\r\nd\re\u{1b}]0;x\u{7}\u{9b}1m\u{1b}[";
        let whole = inert(text);
        for (cut, _) in text.char_indices() {
            let mut inert = Inert::default();
            let shown = inert.push(&text[..cut]) + &inert.push(&text[cut..]) + &inert.end();
            assert_eq!(shown, whole, "cut at {cut}");
        }
    }
}
