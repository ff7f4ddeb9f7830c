//! `token`: letting workers and clients in.

use std::time::Duration;

use clap::{Args, Subcommand};

use super::super::connection::Session;
use super::super::error::{Failure, check_refused};
use super::super::{Manner, duration, render};
use super::{tell_done, tell_list};
use crate::core::access::{Role, TokenInfo, TokenState, TokenWish};
use crate::core::id::Name;
use crate::core::label::labels_of_worker;
use crate::process::clock;
use crate::wire;

/// What can be done with tokens.
#[derive(Subcommand, Clone, Debug)]
pub enum TokenAction {
    /// Make one; it is shown here and never again
    Create(CreateArgs),
    /// List them, without their secrets
    List,
    /// Let nobody in by it any longer
    Revoke {
        /// Its id, as `token list` shows it
        id: u64,
    },
}

/// `token create`.
#[derive(Args, Clone, Debug)]
pub struct CreateArgs {
    /// For a worker
    #[arg(long, conflicts_with = "client", required_unless_present = "client")]
    pub worker: bool,
    /// For a client: a person or a script
    #[arg(long)]
    pub client: bool,
    /// The name that it gives
    #[arg(long)]
    pub name: Option<Name>,
    /// Whose jobs a client submits and sees
    #[arg(long, requires = "client")]
    pub owner: Option<Name>,
    /// A label that a worker gets (may be repeated)
    #[arg(long, value_name = "K=V", requires = "worker")]
    pub label: Vec<String>,
    /// How many it lets in
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub uses: u32,
    /// How long it counts, at most 24h
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = duration::parse)]
    pub ttl: Duration,
}

/// Makes, lists or revokes tokens.
///
/// # Errors
/// When it is not the caller's own pool, or the pool refuses.
pub async fn token(session: &mut Session, action: &TokenAction, manner: Manner) -> Result<u8, Failure> {
    match action {
        TokenAction::Create(args) => {
            let (token, info) = create(session, &wish(args)?).await?;
            let expires = render::rfc3339(info.expires);
            let document = serde_json::json!({ "v": 1, "id": info.id.0, "token": token, "expires": expires });
            tell_done(manner, &token, &token, document);
        }
        TokenAction::List => {
            let admin = session.admin().await?;
            let answer = admin.tokens_request().send().promise.await?;
            let tokens = answer.get()?.get_tokens()?;
            let tokens = tokens.iter().map(wire::token::read_info).collect::<Result<Vec<_>, _>>()?;
            list(&tokens, manner);
        }
        TokenAction::Revoke { id } => {
            let admin = session.admin().await?;
            let mut request = admin.revoke_token_request();
            request.get().set_id(*id);
            let answer = request.send().promise.await?;
            check_refused(answer.get()?.has_refused(), answer.get()?.get_refused())?;
            let about = id.to_string();
            tell_done(
                manner,
                &format!("revoked token {id}"),
                &about,
                serde_json::json!({ "v": 1, "revoked": id }),
            );
        }
    }
    Ok(0)
}

fn wish(args: &CreateArgs) -> Result<TokenWish, Failure> {
    Ok(TokenWish {
        role: if args.worker { Role::Worker } else { Role::Client },
        name: args.name.clone(),
        owner: args.owner.clone(),
        labels: labels_of_worker(&args.label)?,
        uses: Some(args.uses),
        ttl: args.ttl,
    })
}

/// Makes a token.
///
/// # Errors
/// When it is not the caller's own pool, or the pool refuses.
pub async fn create(session: &mut Session, wish: &TokenWish) -> Result<(String, TokenInfo), Failure> {
    let admin = session.admin().await?;
    let mut request = admin.create_token_request();
    wire::token::write_wish(wish, request.get().init_wish());
    let answer = request.send().promise.await?;
    let answer = answer.get()?;
    check_refused(answer.has_refused(), answer.get_refused())?;
    let token = answer.get_token()?.to_str().map_err(wire::WireError::from)?.to_owned();
    Ok((token, wire::token::read_info(answer.get_info()?)?))
}

fn list(tokens: &[TokenInfo], manner: Manner) {
    let state = |state| match state {
        TokenState::Valid => "valid",
        TokenState::Spent => "spent",
        TokenState::Expired => "expired",
        TokenState::Revoked => "revoked",
    };
    let json = |token: &TokenInfo| {
        serde_json::json!({
            "v": 1, "id": token.id.0, "role": token.role.as_str(), "state": state(token.state), "name": token.name,
            "uses_left": token.uses_left, "expires": render::rfc3339(token.expires),
        })
    };
    let people = |tokens: &[TokenInfo]| {
        let now = clock::wall();
        let row = |token: &TokenInfo| {
            let left = render::duration(render::between(now, token.expires));
            vec![
                token.id.to_string(),
                token.role.as_str().to_owned(),
                state(token.state).to_owned(),
                token.uses_left.map_or("any".to_owned(), |uses| uses.to_string()),
                if token.state == TokenState::Valid { left } else { "-".to_owned() },
                token.name.clone().unwrap_or_default(),
            ]
        };
        let header = ["ID", "ROLE", "STATE", "USES LEFT", "EXPIRES IN", "NAME"];
        crate::say::result(format_args!("{}", render::table(&header, tokens.iter().map(row).collect())));
    };
    tell_list(manner, tokens, |token| token.id.to_string(), people, json);
}
