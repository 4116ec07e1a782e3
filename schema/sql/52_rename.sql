-- A pipeline by another name.
--
-- What brokers know of a pipeline goes by the name that it was made with: the
-- header tide-pipeline, by which an owner finds its own messages behind its
-- checkpoint, the transactional id, default names of durables and consumer
-- groups. It keeps that name there (first_name), so that a rename in the middle
-- of work loses and doubles nothing.

CREATE OR REPLACE FUNCTION tide._check_new_pipeline(p_name text)
RETURNS void
LANGUAGE plpgsql STABLE AS $$
DECLARE
    v_other text;
BEGIN
    SELECT p.name INTO v_other FROM tide.pipeline p WHERE p.first_name = p_name AND p.name <> p_name;
    IF FOUND THEN
        RAISE EXCEPTION 'pipeline "%" was "%" before, and brokers know it by that name', v_other, p_name
            USING ERRCODE = 'duplicate_object',
                  HINT = format('Choose another name, or give it back: SELECT tide.relay_rename(%L, %L).', v_other, p_name);
    END IF;
END $$;

CREATE OR REPLACE FUNCTION tide.relay_rename(p_name text, p_new_name text)
RETURNS void
LANGUAGE plpgsql VOLATILE
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_pipeline tide.pipeline := tide._pipeline(p_name);
    v_managed  tide.managed_object;
BEGIN
    PERFORM tide._check_name(p_new_name, 'pipeline', 255);
    IF p_new_name = p_name THEN
        RETURN;
    END IF;
    SELECT m.* INTO v_managed FROM tide.managed_object m WHERE m.kind = 'pipeline' AND m.object = p_name;
    IF FOUND THEN
        RAISE EXCEPTION 'pipeline "%" belongs to the resource %/% of a Kubernetes cluster', p_name, v_managed.namespace, v_managed.resource
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  HINT = 'Its resource would make it again. Change the resource, or release the pipeline first.';
    END IF;
    IF EXISTS (SELECT FROM tide.pipeline p WHERE p.name = p_new_name) THEN
        RAISE EXCEPTION 'pipeline "%" exists already', p_new_name
            USING ERRCODE = 'duplicate_object', HINT = 'Choose another name.';
    END IF;
    IF v_pipeline.first_name IS DISTINCT FROM p_new_name THEN
        PERFORM tide._check_new_pipeline(p_new_name);
    END IF;
    IF EXISTS (SELECT FROM tide.dead_letter d WHERE d.pipeline = p_new_name) THEN
        RAISE EXCEPTION 'there are dead letters of an earlier pipeline "%"', p_new_name
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  HINT = format('Choose another name, or resolve and remove them: SELECT tide.relay_dlq_resolve(dlq_id) FROM tide.relay_dlq_list(%1$L); SELECT tide.relay_dlq_purge(%1$L).', p_new_name);
    END IF;

    UPDATE tide.pipeline p
       SET name = p_new_name, first_name = nullif(coalesce(p.first_name, p_name), p_new_name), updated_at = clock_timestamp()
     WHERE p.pipeline_id = v_pipeline.pipeline_id;
    UPDATE tide.dead_letter d SET pipeline = p_new_name WHERE d.pipeline = p_name;
    BEGIN
        UPDATE tide.consumer_group g SET name = p_new_name
         WHERE g.group_id = v_pipeline.group_id AND g.implicit AND g.name = p_name;
    EXCEPTION WHEN unique_violation THEN
        RAISE EXCEPTION 'the outbox of pipeline "%" has a consumer group "%" already', p_name, p_new_name
            USING ERRCODE = 'duplicate_object',
                  HINT = 'The group of this pipeline has its name, and would get the new one. Choose another name.';
    END;
END $$;

COMMENT ON FUNCTION tide.relay_rename(text, text) IS
'Gives a pipeline another name, while it works; its position, its dead letters and a consumer group made for it come along. Brokers go on to know it by the name that it was made with (header tide-pipeline, default names of consumer groups and durables), which no other pipeline can have meanwhile.';
