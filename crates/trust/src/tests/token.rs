use p2pinst_types::{Hash, MachineId};
use proptest::prelude::*;

use crate::fixture::{Invited, Lab};
use crate::token::{MAX, Token, TokenError};

fn token(lab: &mut Lab, n: u16) -> Token {
    let Invited { key, invite, cell } = lab.invite(n, 1);
    Token {
        roots: lab.roots.clone(),
        bootstrap: vec!["/ip4/10.77.0.1/tcp/4001".to_owned()],
        grant: lab.operator_grant.clone(),
        invite_cell: cell,
        invite,
        key,
        name: None,
    }
}

fn text(n: u16) -> String {
    token(&mut Lab::new(n), 100).encode().unwrap().to_string()
}

/// What is wrong with a token that was made of these parts.
fn refused(token: &Token) -> TokenError {
    Token::decode(&token.encode().unwrap()).unwrap_err()
}

/// How long a text is, and the first sixteen digits of its hash: enough to notice a change.
fn golden(text: &str) -> String {
    format!("{}:{}", text.len(), &Hash::of(text.as_bytes()).to_string()[..16])
}

#[test]
fn golden_tokens() {
    assert_eq!(golden(&text(0)), "1140:41d62f5d6d11e7a5");
    let mut lab = Lab::default();
    let Invited { key, invite, cell } = lab.invite_replacing(100, MachineId([5; 16]));
    let name = Some("n3".parse().unwrap());
    let parts = token(&mut lab, 101);
    let token = Token { invite_cell: cell, invite, key, name, ..parts };
    let encoded = token.encode().unwrap();
    assert_eq!(golden(&encoded), "1165:3bb28906369eed26");
    assert_eq!(Token::decode(&encoded).unwrap().name, token.name);
}

/// The name of the machine whose place is taken is there when its invite says so, and only then.
#[test]
fn a_token_names_a_machine_when_its_invite_does() {
    let mut lab = Lab::default();
    let named = Token { name: Some("n3".parse().unwrap()), ..token(&mut lab, 100) };
    assert!(matches!(refused(&named), TokenError::Invalid(_)));
    let Invited { key, invite, cell } = lab.invite_replacing(102, MachineId([5; 16]));
    let parts = token(&mut lab, 103);
    let nameless = Token { invite_cell: cell, invite, key, ..parts };
    assert!(matches!(refused(&nameless), TokenError::Invalid(_)));
}

#[test]
fn a_token_survives_the_trip() {
    let token = token(&mut Lab::default(), 100);
    let text = token.encode().unwrap();
    for copied in [text.to_string(), format!("  {}\n", *text)] {
        let back = Token::decode(&copied).unwrap();
        assert_eq!(back.roots, token.roots);
        assert_eq!(
            (back.grant, back.invite_cell),
            (token.grant.clone(), token.invite_cell.clone())
        );
        assert_eq!((back.invite, back.bootstrap), (token.invite.clone(), token.bootstrap.clone()));
        assert_eq!(back.key.public(), token.key.public());
    }
    assert!(text.len() < 1500, "{} characters are much to copy", text.len());
}

#[test]
fn the_key_is_not_shown() {
    let token = token(&mut Lab::default(), 100);
    let seed = data_encoding::HEXLOWER.encode(token.key.to_seed().as_ref());
    assert!(!format!("{token:?}").contains(&seed));
}

#[test]
fn every_changed_or_missing_character_is_noticed() {
    let text = text(0);
    for at in 0..text.len() {
        let dropped = format!("{}{}", &text[..at], &text[at + 1..]);
        let other = if &text[at..=at] == "A" { "B" } else { "A" };
        let changed = format!("{}{other}{}", &text[..at], &text[at + 1..]);
        for bad in [dropped, changed] {
            match Token::decode(&bad) {
                Err(TokenError::NotAToken) => assert!(at < "p2pinst1-".len(), "{at}"),
                Err(TokenError::Damaged(_)) => {}
                other => panic!("{at}: {other:?}"),
            }
        }
    }
}

#[test]
fn a_text_that_is_no_token_is_told_so() {
    let long = format!("p2pinst1-{}", "A".repeat(MAX));
    for (bad, says) in [
        ("", "begins with p2pinst1-"),
        ("hello", "begins with p2pinst1-"),
        ("p2pinst1-", "too short"),
        ("p2pinst1-AAAA", "too short"),
        ("p2pinst1-AAAAAAAA", "checksum"),
        ("p2pinst1-Ä", "character"),
        (long.as_str(), "too long"),
    ] {
        let error = Token::decode(bad).unwrap_err().to_string();
        assert!(error.contains(says), "{bad:.20}: {error}");
    }
}

/// A body with a right checksum that is not CBOR, is deep, or claims to be huge.
#[test]
fn a_body_that_is_garbage_is_damaged() {
    for body in [vec![], vec![0xff; 40], vec![0x81; 8000], vec![0x9b, 0xff, 0, 0, 0, 0, 0, 0, 0, 0]]
    {
        let bytes = [body.as_slice(), &Hash::of(&body).0[..4]].concat();
        let text = format!("p2pinst1-{}", data_encoding::BASE64URL_NOPAD.encode(&bytes));
        assert!(matches!(Token::decode(&text), Err(TokenError::Damaged(_))));
    }
}

#[test]
fn parts_of_another_cluster_do_not_fit() {
    let (mut ours, mut theirs) = (Lab::new(0), Lab::new(1));
    let other = token(&mut theirs, 200);
    type Swap = fn(&mut Token, &Token);
    let swaps: [(&str, Swap); 5] = [
        ("its grant is not signed", |t, o| t.roots = o.roots.clone()),
        ("its grant is not signed", |t, o| t.grant = o.grant.clone()),
        ("its invite is not signed", |t, o| t.invite_cell = o.invite_cell.clone()),
        ("its key is not that of its invite", |t, o| t.key = o.key.clone()),
        ("its grant is not signed", |t, _| t.grant = t.invite_cell.clone()),
    ];
    for (i, (says, swap)) in swaps.into_iter().enumerate() {
        let mut token = token(&mut ours, 100 + i as u16);
        swap(&mut token, &other);
        assert_eq!(refused(&token), TokenError::Invalid(says), "{i}");
    }
    // an invite of a member that is not the operator whose grant is shown
    let mut bad = token(&mut ours, 110);
    bad.grant = ours.publisher_grant.clone();
    assert_eq!(refused(&bad), TokenError::Invalid("its invite is not by its operator"));
    let mut bad = token(&mut ours, 111);
    bad.bootstrap = vec![String::new(); 100];
    assert!(matches!(refused(&bad), TokenError::Invalid(_)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn no_text_breaks_the_reader(text in ".{0,80}", tail in "[A-Za-z0-9_-]{0,200}") {
        prop_assert!(Token::decode(&text).is_err());
        let tail = format!("p2pinst1-{tail}");
        prop_assert!(Token::decode(&tail).is_err());
    }
}
