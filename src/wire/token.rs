//! Tokens as they are asked for and listed.

use std::time::Duration;

use crate::core::access::{Role, TokenInfo, TokenState, TokenWish};
use crate::core::id::{Name, TokenId};
use crate::core::limits;
use crate::core::time::WallTime;
use crate::schema::pool_capnp::{self, token_info, token_wish};

use super::{WireError, label, text};

/// How long a token counts if nobody says so.
pub const TTL_DEFAULT: Duration = Duration::from_secs(3600);

/// The enumerator of a role.
pub fn write_role(role: Role) -> pool_capnp::Role {
    match role {
        Role::Worker => pool_capnp::Role::Worker,
        Role::Client => pool_capnp::Role::Client,
    }
}

/// The role that an enumerator stands for.
pub fn read_role(role: pool_capnp::Role) -> Role {
    match role {
        pool_capnp::Role::Worker => Role::Worker,
        pool_capnp::Role::Client => Role::Client,
    }
}

/// Writes a wish.
pub fn write_wish(wish: &TokenWish, mut to: token_wish::Builder<'_>) {
    to.set_role(write_role(wish.role));
    to.set_name(wish.name.as_ref().map_or("", Name::as_str));
    to.set_owner(wish.owner.as_ref().map_or("", Name::as_str));
    label::write(
        &wish.labels,
        to.reborrow().init_labels(u32::try_from(wish.labels.len()).expect("labels are bounded")),
    );
    to.set_uses(wish.uses.unwrap_or(0));
    to.set_ttl_ms(text::millis(Some(wish.ttl)));
}

/// Reads a wish.
pub fn read_wish(from: token_wish::Reader<'_>) -> Result<TokenWish, WireError> {
    let name = |from| -> Result<Option<Name>, WireError> {
        let name = text::read_optional(from, "the name", limits::NAME_BYTES_MAX)?;
        Ok(name.map(|name| Name::parse(&name)).transpose()?)
    };
    let uses = from.get_uses();
    text::check_len(uses, "the number of a token's uses", limits::TOKEN_USES_MAX as usize)?;
    Ok(TokenWish {
        role: read_role(from.get_role()?),
        name: name(from.get_name())?,
        owner: name(from.get_owner())?,
        labels: label::read(from.get_labels()?)?,
        uses: (uses > 0).then_some(uses),
        ttl: text::duration(from.get_ttl_ms()).unwrap_or(TTL_DEFAULT),
    })
}

/// Writes a listed token.
pub fn write_info(info: &TokenInfo, mut to: token_info::Builder<'_>) {
    to.set_id(info.id.0);
    to.set_role(write_role(info.role));
    to.set_name(info.name.as_deref().unwrap_or(""));
    to.set_bounded(info.uses_left.is_some());
    to.set_uses_left(info.uses_left.unwrap_or(0));
    to.set_expires_ms(info.expires.0);
    to.set_state(match info.state {
        TokenState::Valid => pool_capnp::TokenState::Valid,
        TokenState::Spent => pool_capnp::TokenState::Spent,
        TokenState::Expired => pool_capnp::TokenState::Expired,
        TokenState::Revoked => pool_capnp::TokenState::Revoked,
    });
}

/// Reads a listed token.
pub fn read_info(from: token_info::Reader<'_>) -> Result<TokenInfo, WireError> {
    Ok(TokenInfo {
        id: TokenId(from.get_id()),
        role: read_role(from.get_role()?),
        name: text::read_optional(from.get_name(), "a name", limits::NAME_BYTES_MAX)?,
        uses_left: from.get_bounded().then(|| from.get_uses_left()),
        expires: WallTime(from.get_expires_ms()),
        state: match from.get_state()? {
            pool_capnp::TokenState::Valid => TokenState::Valid,
            pool_capnp::TokenState::Spent => TokenState::Spent,
            pool_capnp::TokenState::Expired => TokenState::Expired,
            pool_capnp::TokenState::Revoked => TokenState::Revoked,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::message;

    #[test]
    fn a_spent_token_that_was_revoked_is_not_shown_as_one_for_any_number() {
        let info = TokenInfo {
            id: TokenId(1),
            role: Role::Worker,
            name: None,
            uses_left: Some(0),
            expires: WallTime(5),
            state: TokenState::Revoked,
        };

        let bytes = message::encode::<token_info::Owned>(|to| write_info(&info, to));

        assert_eq!(message::decode::<token_info::Owned, _>(&bytes, read_info).unwrap(), info);
    }
    #[test]
    fn a_token_for_more_keys_than_it_can_remember_is_refused() {
        let read = |uses| {
            let bytes = message::encode::<token_wish::Owned>(|mut to| to.set_uses(uses));
            message::decode::<token_wish::Owned, _>(&bytes, read_wish).map(|wish| wish.uses)
        };

        assert_eq!(read(limits::TOKEN_USES_MAX).unwrap(), Some(limits::TOKEN_USES_MAX));
        assert!(read(limits::TOKEN_USES_MAX + 1).is_err());
        assert_eq!(read(0).unwrap(), None);
    }
}
