//! `policy`: what a verb needs of IAM. Changes nothing.

use serde_json::Value;

use super::plan::{Wishes, decide, iam_place, prepare};
use super::policy_args::{BakePolicyArgs, PolicyVerb};
use crate::bake::names::Channel;
use crate::bake::plan::{Decision, Plan};
use crate::cli::context::{Connected, Context, cloud};
use crate::cli::error::{CliError, CliResult};
use crate::cli::{exit, output};
use crate::recipe::model::BaseRef;
use crate::{aws, iam};

pub async fn run(context: &Context, of: &PolicyVerb) -> CliResult {
    let connected = context.connect().await?;
    let place = iam_place(&connected);
    let bundles = context.settings.bundles.as_ref();
    let policy = match of {
        PolicyVerb::Bake(args) if args.builder => of_builder(context, &connected, args).await?,
        PolicyVerb::Bake(args) => {
            with_key(&connected, of_bake(context, &connected, args).await?).await?
        }
        PolicyVerb::Images => iam::images(place),
        PolicyVerb::Gc => iam::gc(bundles, place),
        PolicyVerb::Run => with_key(&connected, iam::look_inside(place)).await?,
        PolicyVerb::Roll { group } => {
            let found = aws::groups::raw_group(&connected.clients, group)
                .await
                .map_err(|error| cloud(&error))?;
            let template = found.and_then(|group| group.launch_template?.launch_template_id);
            with_key(&connected, iam::roll(group, template.as_deref(), place)).await?
        }
        PolicyVerb::Fleet { group } => iam::fleet(group, place),
    };
    output::json(&policy)?;
    Ok(exit::DONE)
}

/// With what the account's own key for volumes needs, if it has one.
pub async fn with_key(connected: &Connected, policy: Value) -> Result<Value, CliError> {
    match iam::own_key(&connected.clients).await {
        Ok(Some(key)) => Ok(iam::with_key(policy, &key, iam_place(connected))),
        Ok(None) => Ok(policy),
        Err(error) if error.kind == aws::Kind::Unauthorized => {
            output::note(&format!(
                "note: which key volumes are encrypted with could not be looked up; if it is one of the account's own, more is \
                 needed for that: {}",
                error.sentence()
            ));
            Ok(policy)
        }
        Err(error) => Err(cloud(&error)),
    }
}

/// Of a whole bake, also where an image is there already.
async fn of_bake(
    context: &Context,
    connected: &Connected,
    args: &BakePolicyArgs,
) -> Result<Value, CliError> {
    let (plan, base) = whole(context, connected, args).await?;
    let bundles = context.settings.bundles.as_ref();
    Ok(iam::bake(&plan, &base, bundles, iam_place(connected)))
}

/// Of the role of its builder.
async fn of_builder(
    context: &Context,
    connected: &Connected,
    args: &BakePolicyArgs,
) -> Result<Value, CliError> {
    let (plan, _) = whole(context, connected, args).await?;
    iam::builder(&plan, iam_place(connected)).ok_or_else(|| {
        CliError::failure(format!(
            "the builder of {} needs nothing but AmazonSSMManagedInstanceCore",
            args.recipe
        ))
    })
}

/// The plan of a whole bake, and the base of its line.
async fn whole(
    context: &Context,
    connected: &Connected,
    args: &BakePolicyArgs,
) -> Result<(Box<Plan>, BaseRef), CliError> {
    let order = prepare(context, &args.recipe, &args.sets.given())?;
    let order = order.pinned(connected)?;
    let channel = if args.candidate {
        Channel::Candidate
    } else {
        Channel::Latest
    };
    let wishes = Wishes::new(true, channel, true);
    let Decision::Bake(plan) = decide(context, connected, &order, wishes).await? else {
        return Err(CliError::new(exit::BUG, "a forced bake found its image"));
    };
    Ok((plan, order.base))
}
