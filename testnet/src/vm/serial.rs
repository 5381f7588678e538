//! What firmware and loaders say on a serial line, as text.

/// Without the escape sequences (ECMA-48) and carriage returns that place text on a screen.
pub(super) fn plain(raw: &[u8]) -> String {
    let text = String::from_utf8_lossy(raw);
    let mut plain = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\u{1b}' => match chars.next() {
                // a control sequence ends with a letter or its like
                Some('[') => while chars.next().is_some_and(|c| !('@'..='~').contains(&c)) {},
                _ => continue,
            },
            '\n' | '\t' => plain.push(c),
            c if c.is_control() => {}
            c => plain.push(c),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_moves_the_cursor_is_left_out() {
        assert_eq!(
            plain(b"\x1b[2J\x1b[01;01HStart\x1b[0m PXE\r\n\x1bcnext\x1b[1"),
            "Start PXE\nnext"
        );
        assert_eq!(plain(b"\xff ok\x07"), "\u{fffd} ok");
    }
}
