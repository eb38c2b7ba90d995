-- Accepted pairs of the train split with their text and scores: what training reads.
SELECT
    dataset, pair_id, category, relation, miner, params, context_ids, target_id, instruction,
    instruction_short, instruction_inverse, target_caption, source, license_spdx, component_id,
    clip_t, clip_dir, ssim, l1, changed_frac
FROM pair_facts
WHERE accept AND split = 'train'
