"""`DAEPolicy`: an observation encoder, an adapter and a frozen action head, as a LeRobot policy.

Axes: b batch, s observation steps, h horizon, d columns of the dataset's action, a action of the head, c condition.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import ModelCard
from lerobot.policies import PreTrainedPolicy
from lerobot.utils.constants import ACTION
from torch import Tensor, distributed, nn

from action_heads import Executor
from action_heads._util.conditions import Condition, Mask, parts
from action_heads._util.conditions import take as rows_of
from action_heads.acting import Policy
from action_heads.diffusion.continuing import Continue, check_mixes_time
from action_heads.diffusion.samplers import Sampling
from action_heads.encoders.observation import Tokens
from action_heads.io.files import WeightFileError, load_tensors
from action_heads.observed_policy import ObservedPolicy
from action_heads.runtime.compiled import CompiledPolicy
from action_heads.runtime.slow_encoder import SlowEncoder
from lerobot_policy_dae import building, heads
from lerobot_policy_dae.card import section
from lerobot_policy_dae.configuration_dae import DAEConfig
from lerobot_policy_dae.draws import Draws
from lerobot_policy_dae.heads import flag
from lerobot_policy_dae.left_over import check_chunk, check_delay, check_left_over, in_groups, really_left
from lerobot_policy_dae.observations import TASK, Observations, contract_of
from lerobot_policy_dae.remembered import Remembered
from lerobot_policy_dae.statistics import check_actions, check_batch, check_gripper

logger = logging.getLogger(__name__)


class DAEPolicy(PreTrainedPolicy):
    """A LeRobot policy whose encoder and adapter train through a frozen action head.

    Args:
        config: Settings of the policy. A new policy records in it what it was built from.
        dataset_stats: Statistics of the dataset by feature. A new policy takes the range of the actions from them.
        dataset_meta: Metadata of the dataset: names of the action columns and descriptions of the tasks.
        rebuild: Build what `config.built` records, without reading files, for weights that are loaded afterwards.

    Raises:
        ValueError: The flags contradict each other or the dataset. The message names the flag.

    Examples:
        >>> policy = DAEPolicy.from_pretrained("outputs/train/checkpoints/last/pretrained_model")
        >>> action = policy.select_action(preprocessor(observation))  # (b d), the dataset's columns
    """

    config_class = DAEConfig  # type: ignore[assignment]
    name = "dae"  # type: ignore[assignment]

    def __init__(
        self,
        config: DAEConfig,
        dataset_stats: Mapping[str, Any] | None = None,
        dataset_meta: Any = None,
        rebuild: bool = False,
    ):
        super().__init__(config)
        self.config: DAEConfig = config
        self.layout = building.declared_layout(config, dataset_meta)
        if rebuild:
            self.encoder, self.conditioned = building.make_again(config)
        else:
            self.encoder, self.conditioned = building.make(config, self.layout, dataset_stats, dataset_meta)
            building.check_trains(config, self.encoder)
            self.learn_tasks(dataset_meta)
        if config.prefixes:
            with flag("prefixes"):
                check_mixes_time(self.conditioned.head)
        self.draws = Draws(config)
        self.remembered = Remembered(self.encoder, dataset_meta) if config.remember else None
        self.slow: SlowEncoder | None = None  # the VLM between chunks, with `vlm_refresh`
        if config.vlm_refresh is not None:
            latency = 0 if config.vlm_max_age is None else None  # None is a background thread
            with flag("vlm_refresh", "vlm_max_age"):
                self.slow = SlowEncoder(
                    self._embed, every=config.vlm_refresh, latency=latency, max_age=config.vlm_max_age
                )
        self._compiled: list[CompiledPolicy] = []  # A list, so that torch does not register it as a submodule.
        self.reset()

    # ── loading and saving ───────────────────────────────────────────────────────────────────────────────────────

    @property
    def observed(self) -> ObservedPolicy:
        """Encoder and head as one policy. It is not kept, since PEFT may put other modules in their places."""
        return ObservedPolicy(self.encoder, self.conditioned, contract_of(self.config))

    @classmethod
    def from_pretrained(cls, pretrained_name_or_path: str | Path, **kwargs: Any) -> DAEPolicy:  # type: ignore[override]
        """Load a policy as LeRobot does. Everything comes from the checkpoint; no head or encoder is downloaded.

        With the statistics of a dataset, to train on, its actions and the flags of training are checked as those of a
        new policy are.
        """
        policy = super().from_pretrained(pretrained_name_or_path, rebuild=True, **kwargs)
        if ACTION in (stats := kwargs.get("dataset_stats") or {}):
            low, high = check_actions(policy.layout, stats[ACTION], kwargs.get("dataset_meta"))
            check_gripper(policy.layout, low, high)
            building.check_trains(policy.config, policy.encoder)
        policy.learn_tasks(kwargs.get("dataset_meta"))
        return policy

    @classmethod
    def _load_as_safetensor(  # type: ignore[override]
        cls, model: DAEPolicy, model_file: str, map_location: str, strict: bool
    ) -> DAEPolicy:
        """Load all weights, even if `strict` is False, then freeze the head and check its weights."""
        tensors, _ = load_tensors(model_file)
        try:
            model.load_state_dict(tensors)
        except RuntimeError as error:
            raise WeightFileError(
                f"{model_file} does not match the config.json beside it, so no weights were loaded: {error}"
            ) from error
        assert model.config.built is not None
        heads.seal(model.conditioned.head, model.config.built["head"])
        heads.check_whole(model.state_dict(), model.config.built, model_file)
        return model

    def _save_pretrained(self, save_directory: Path, state_dict: dict[str, Tensor] | None = None) -> None:
        """Write a checkpoint as LeRobot does, with a fingerprint of all its weights and of what they mean."""
        self.conditioned.head.assert_frozen(thorough=True)
        assert self.config.built is not None
        heads.check_precise(self.conditioned.head)
        weights = self.state_dict() if state_dict is None else state_dict
        self.config.built["fingerprint"] = heads.SEAL.of(self.config.built, weights)
        # LeRobot after 0.6.1 has no such argument, and passes none.
        super()._save_pretrained(save_directory, *(() if state_dict is None else (state_dict,)))

    def learn_tasks(self, dataset_meta: Any) -> None:
        """Encode and save a dataset's task descriptions, so that acting on them needs no text model."""
        tasks = [] if dataset_meta is None else [str(task) for task in dataset_meta.tasks.index]
        if self.config.text is not None:
            self.encoder.learn_tasks(tasks)
        elif len(tasks) > 1 and not self.encoder.reads_task:
            logger.warning(
                "The dataset has %d tasks, but the policy does not read their descriptions. Unless the images show "
                "which task it is, set --policy.text.model, for example to distilbert-base-uncased.",
                len(tasks),
            )

    def requires_grad_(self, requires_grad: bool = True) -> DAEPolicy:
        """Do as torch does, except that the frozen parts of encoder and head stay frozen."""
        self.observed.requires_grad_(requires_grad)
        return self

    # ── training ─────────────────────────────────────────────────────────────────────────────────────────────────

    def forward(self, batch: dict[str, Any], reduction: str = "mean") -> tuple[Tensor, None]:
        """Return the denoising loss of a batch with actions (b h d), observations (b s ...) and action_is_pad (b h).

        Noise and augmentation are drawn for this step and this process, each from a generator of its own.

        Args:
            batch: the batch.
            reduction: "mean", or "none" for the loss of each chunk (b), which LeRobot's `--sample_weighting` asks for.
        """
        config = self.config
        images, state, task = self.observations.inputs(self.observations.with_steps(batch))
        actions = self.layout.encode(batch[ACTION])
        check_batch(self.layout, batch[ACTION])
        chunks = {"actions": actions, "is_pad": batch.get("action_is_pad"), "images": images, "state": state}
        first = self.training and self.draws.config.noise_step == 0
        noise, augmented = self.draws.next(self.training, actions.device)
        with augmented:
            if first and self.encoder.vlm is not None:
                self._standardise(images, state, task)
            if self.remembered is not None:
                chunks["outputs"] = self.remembered(images)
            options = {"generator": noise, "reduction": reduction, **vars(config.noise)}
            return self.observed.loss(chunks, task, **options), None

    @torch.no_grad()
    def _standardise(self, images: dict[str, Tensor], state: Tensor | None, task: list[str] | None) -> None:
        """Take the statistics of a VLM's tokens from the first batch, since hidden states are not normalised.

        All processes use those of the first one.
        """
        cond, mask = self.observed.encode(images, state, task)
        assert isinstance(cond, Mapping)
        assert isinstance(mask, Mapping)
        standard: Any = self.conditioned.adapter.standard
        standard["tokens"].fit(cond["tokens"], mask["tokens"])
        if distributed.is_available() and distributed.is_initialized():
            for statistic in (standard["tokens"].mean, standard["tokens"].std):
                distributed.broadcast(statistic, src=0)

    def condition(self, batch: dict[str, Any], tokens: Tokens | None = None) -> tuple[Condition, Mask]:
        """Return the condition and the mask of observations (b s ...), with earlier tokens of the VLM if given."""
        return self.observed.encode(*self.observations.inputs(batch), tokens)

    def _slow_tokens(self, slow: SlowEncoder, observed: dict[str, Any]) -> Tokens:
        """Return the newest tokens that are ready. Those of other words are never used."""
        if observed[TASK] != self._embedded_task:
            slow.reset()
        self._embedded_task = observed[TASK]
        return slow(observed)

    def _embed(self, observed: dict[str, Any]) -> Tokens:
        """Return the tokens of the VLM and their mask for observations (b s ...)."""
        images, _, task = self.observations.inputs(observed)
        return self.observed.embed(images, task)

    def get_optim_params(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """Return two groups: adapter and trainable parts of the head, and the encoder with its own learning rate."""
        adapter, encoder = self.observed.parameter_groups()
        own: list[dict[str, Any]] = [{"params": encoder, "lr": self.config.optimizer_encoder_lr}]
        return [{"params": adapter}] + (own if encoder else [])

    def _get_default_peft_targets(self) -> dict[str, Any]:
        """Return the default targets of `--peft.*`: the adapter's linear layers, none of the frozen head."""
        linear = [name for name, module in self.conditioned.adapter.named_modules() if type(module) is nn.Linear]
        return {"target_modules": [f"conditioned.adapter.{name}" for name in linear if not name.startswith("step.")]}

    # ── acting ───────────────────────────────────────────────────────────────────────────────────────────────────

    def reset(self) -> None:
        """Forget observations and chunks, and read the settings of acting again. Call it when a new episode begins."""
        config = self.config
        self.observations = Observations(config, self.encoder.config.vision)
        self.sampling = Sampling(config.sampler, config.num_inference_steps)
        with flag("sampler", "num_inference_steps", "n_action_steps", "ensemble", "warm_start"):
            self.executor = Executor(
                self.conditioned,
                execute=config.n_action_steps,
                ensemble=config.ensemble,
                warm_start=config.warm_start,
                decode=self.decode,
                **vars(self.sampling),
            )
        self._embedded_task: Any = None  # the task that the VLM embeds
        if self.slow is not None:
            self.slow.close()
        self._last: Tensor | None = None  # the last chunk (b h d) of `predict_action_chunk`

    def decode(self, actions: Tensor, last: Tensor | None = None) -> Tensor:
        """Return actions (b a) or a chunk (b h a) in the dataset's columns, continued from `last` (b d)."""
        return self.layout.decode(actions, last, canonical=self.config.canonical_rotations)

    @property
    def acting(self) -> Policy:
        """The policy that samples chunks, compiled if `--policy.compile` is set."""
        if self.config.compile is None:
            return self.conditioned
        if not self._compiled or self._compiled[0].stale:
            self._compiled = [self.conditioned.compile(self.config.compile)]
        return self._compiled[0]

    @torch.no_grad()
    def select_action(self, batch: dict[str, Any], **_: Any) -> Tensor:
        """Return the next action (b d) of each robot, with a new chunk every `n_action_steps` ticks.

        With `vlm_refresh`, a chunk is made from the newest embedding of the VLM and from the present state.
        """
        self.eval()
        self.observations.add(batch)  # raises before it stores a bad observation
        observed = self.observations.stacked(batch) if self.slow is not None or self.executor.due else {}
        tokens = None if self.slow is None else self._slow_tokens(self.slow, observed)
        cond = mask = None
        if self.executor.due:
            (cond, mask), self.executor.policy = self.condition(observed, tokens), self.acting
        return self.executor(cond, mask=mask)

    @torch.no_grad()
    def predict_action_chunk(  # type: ignore[override]
        self, batch: dict[str, Any], inference_delay: int = 0, prev_chunk_left_over: Tensor | None = None, **_: Any
    ) -> Tensor:
        """Return a chunk (b h d) for observations (b s ...), or for the present alone, which is repeated.

        Args:
            inference_delay: number of ticks until the chunk is ready. The chunk begins with the remaining actions of
                these ticks, as far as there are any, and is sampled freely after them.
            prev_chunk_left_over: remaining actions (n d) or (b n d) of the last chunk, with the padding that LeRobot's
                real-time chunking adds. Padding is recognised by comparison with this policy's last chunk.

        Raises:
            ValueError: an argument has a wrong type, shape or value, or the chunk is not finite.
        """
        self.eval()
        cond, mask = self.condition(self.observations.with_steps(batch, acting=True))
        batch_size, device = len(parts(cond)[0]), parts(cond)[0].device
        last = self._last if self._last is not None and len(self._last) == batch_size else None
        if prev_chunk_left_over is None:
            # A single robot continues from its last chunk. Rows of a larger batch may be unrelated to the last ones.
            before = last[:, : self.config.n_action_steps][:, -1] if last is not None and len(last) == 1 else None
            chunk = self.decode(self.acting.act(cond, self.sampling, Continue(), mask), before)
        else:
            previous = check_left_over(prev_chunk_left_over, batch_size, self.layout.width, device)
            delay = min(check_delay(inference_delay), self.config.chunk() - 1)
            rows = in_groups(really_left(previous, last))
            chunk = torch.cat(
                [
                    self._continued(
                        *rows_of(cond, mask, at), previous[at, :n], delay, None if last is None else last[at, -1]
                    )
                    for at, n in rows
                ]
            )
        check_chunk(chunk)
        self._last = chunk.clone()
        return chunk

    def _continued(self, cond: Condition, mask: Mask, left: Tensor, delay: int, before: Tensor | None) -> Tensor:
        """Return a chunk (b h d) that begins with those remaining actions (b n d) that are executed during `delay`."""
        committed = min(delay, left.shape[1])
        begin = left[:, :committed]
        continued = Continue(self.layout.encode(begin), committed) if committed else Continue()
        chunk = self.acting.act(cond, self.sampling, continued, mask)
        before = left[:, 0] if left.shape[1] else before
        return self.layout.decode_after(chunk, begin, before, canonical=self.config.canonical_rotations)

    def supports_rtc(self) -> bool:
        """Return whether LeRobot may ask for chunks in real time.

        It needs a backbone that mixes time, trained with `prefixes`. The policy may see one observation only, since
        LeRobot asks for chunks at irregular times.
        """
        config = self.config
        return self.conditioned.head.backbone.mixes_time and config.prefixes and config.n_obs_steps == 1

    # ── showing ──────────────────────────────────────────────────────────────────────────────────────────────────

    def counts(self) -> dict[str, tuple[int, int]]:
        """Return the numbers of frozen and of trainable parameters of each part."""
        return {name: (count["frozen"], count["trained"]) for name, count in self.observed.parts().items()}

    def generate_model_card(self, *args: Any, **kwargs: Any) -> ModelCard:
        """Return LeRobot's model card with a section on what is frozen and what was trained."""
        card = super().generate_model_card(*args, **kwargs)
        card.text += section(self)
        return card
