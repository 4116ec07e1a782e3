-- Which resource of a Kubernetes cluster an outbox, inbox or pipeline belongs
-- to. A claim is written in the transaction that makes the object, so two
-- resources, also of two clusters, cannot both have it (docs/design/operator.md).
-- An outbox or inbox that stays when its resource goes keeps its claim, released:
-- a resource of the same cluster, namespace and name has it back, any other must
-- adopt it.

CREATE OR REPLACE FUNCTION tide._check_claim(p_kind text, p_object text, p_cluster text, p_namespace text, p_resource text)
RETURNS void
LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    IF p_kind IS NULL OR p_kind NOT IN ('outbox', 'inbox', 'pipeline') THEN
        RAISE EXCEPTION 'p_kind is %', coalesce(quote_literal(p_kind), 'null')
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Allowed: ''outbox'', ''inbox'', ''pipeline''.';
    END IF;
    PERFORM tide._check_name(p_object, p_kind, CASE p_kind WHEN 'pipeline' THEN 255 ELSE 63 END);
    IF p_cluster IS NULL OR p_namespace IS NULL OR p_resource IS NULL THEN
        RAISE EXCEPTION 'the resource of % "%" is not fully named', p_kind, p_object
            USING ERRCODE = 'null_value_not_allowed', HINT = 'Give p_cluster, p_namespace and p_resource.';
    END IF;
END $$;

-- A table without its row counts: it is there to be taken over and repaired.
CREATE OR REPLACE FUNCTION tide._object_exists(p_kind text, p_object text)
RETURNS boolean
LANGUAGE sql STABLE AS $$
    SELECT CASE p_kind
           WHEN 'pipeline' THEN EXISTS (SELECT FROM tide.pipeline p WHERE p.name = p_object)
           WHEN 'inbox' THEN EXISTS (SELECT FROM tide.inbox i WHERE i.name = p_object)
           ELSE EXISTS (SELECT FROM tide.outbox o WHERE o.name = p_object)
           END
        OR p_kind <> 'pipeline' AND to_regclass(format('tide.%I', tide._table_name(p_object, '_' || p_kind))) IS NOT NULL
$$;

CREATE OR REPLACE FUNCTION tide.object_claim(p_kind text, p_object text, p_cluster text, p_namespace text, p_resource text,
                                  p_uid text, p_reclaim text, p_adopt boolean)
RETURNS text
LANGUAGE plpgsql VOLATILE
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_claim  tide.managed_object;
    v_exists boolean;
    v_same   boolean;
BEGIN
    PERFORM tide._check_claim(p_kind, p_object, p_cluster, p_namespace, p_resource);
    IF p_uid IS NULL OR p_adopt IS NULL THEN
        RAISE EXCEPTION '% of % "%" is null', CASE WHEN p_uid IS NULL THEN 'p_uid' ELSE 'p_adopt' END, p_kind, p_object
            USING ERRCODE = 'null_value_not_allowed', HINT = 'Pass the UID of the resource, and true or false.';
    ELSIF p_reclaim IS NULL OR p_reclaim NOT IN ('Retain', 'Delete') THEN
        RAISE EXCEPTION 'p_reclaim of % "%" is %', p_kind, p_object, coalesce(quote_literal(p_reclaim), 'null')
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Allowed: ''Retain'', ''Delete''.';
    END IF;

    LOOP
        -- Waits for whoever claims it just now.
        INSERT INTO tide.managed_object (kind, object, cluster, namespace, resource, uid, reclaim)
        VALUES (p_kind, p_object, p_cluster, p_namespace, p_resource, p_uid, p_reclaim)
        ON CONFLICT DO NOTHING;
        IF FOUND THEN
            IF NOT tide._object_exists(p_kind, p_object) THEN
                RETURN 'new';
            ELSIF p_adopt THEN
                RETURN 'adopted';
            END IF;
            RAISE EXCEPTION '% "%" exists already and no resource manages it', p_kind, p_object
                USING ERRCODE = 'TD010', HINT = 'Set adoptionPolicy: Adopt to take it over, or choose another name.';
        END IF;
        SELECT m.* INTO v_claim FROM tide.managed_object m WHERE m.kind = p_kind AND m.object = p_object FOR UPDATE;
        -- Released between the two: once more.
        EXIT WHEN FOUND;
    END LOOP;

    v_same := (v_claim.cluster, v_claim.namespace, v_claim.resource) IS NOT DISTINCT FROM (p_cluster, p_namespace, p_resource);

    IF v_claim.released_at IS NOT NULL THEN
        v_exists := tide._object_exists(p_kind, p_object);
        IF v_exists AND NOT v_same AND NOT p_adopt THEN
            RAISE EXCEPTION '% "%" exists already: it was kept when % "%" in namespace "%" of % was deleted', p_kind, p_object,
                initcap(p_kind), v_claim.resource, v_claim.namespace,
                CASE v_claim.cluster WHEN p_cluster THEN 'this cluster' ELSE 'another cluster' END
                USING ERRCODE = 'TD010', HINT = 'Set adoptionPolicy: Adopt to take it over, or choose another name.';
        END IF;
        -- Rights that another resource gave are not this one's to take back.
        UPDATE tide.managed_object m
           SET cluster = p_cluster, namespace = p_namespace, resource = p_resource, uid = p_uid, reclaim = p_reclaim,
               roles = CASE WHEN v_exists AND v_same THEN m.roles ELSE '{}' END,
               claimed_at = clock_timestamp(), released_at = NULL
         WHERE m.kind = p_kind AND m.object = p_object;
        RETURN CASE WHEN NOT v_exists THEN 'new' WHEN v_same THEN 'returned' ELSE 'adopted' END;
    END IF;

    IF NOT v_same THEN
        RAISE EXCEPTION '% "%" is managed by % "%" in namespace "%" of %', p_kind, p_object, initcap(p_kind),
            v_claim.resource, v_claim.namespace, CASE v_claim.cluster WHEN p_cluster THEN 'this cluster' ELSE 'another cluster' END
            USING ERRCODE = 'TD011',
                  HINT = CASE v_claim.cluster
                         WHEN p_cluster THEN format('Choose another name, or delete the other %s resource.', initcap(p_kind))
                         ELSE format('Choose another name, or, if that cluster is gone: SELECT tide.object_release(%L, %L, %L, %L, %L).',
                                     p_kind, p_object, v_claim.cluster, v_claim.namespace, v_claim.resource)
                         END;
    END IF;
    IF (v_claim.uid, v_claim.reclaim) IS DISTINCT FROM (p_uid, p_reclaim) THEN
        UPDATE tide.managed_object m SET uid = p_uid, reclaim = p_reclaim WHERE m.kind = p_kind AND m.object = p_object;
    END IF;
    RETURN 'held';
END $$;

COMMENT ON FUNCTION tide.object_claim(text, text, text, text, text, text, text, boolean) IS
'For the Kubernetes operator: an outbox, inbox or pipeline belongs to this resource. Returns new (it does not exist yet: make it in the same transaction), held (it belonged to this resource before; UID and reclaim policy are brought up to date), returned (it was kept when a resource of this name was deleted) or adopted (it existed, belonged to nobody, and p_adopt is true). Errors: TD010, it exists and belongs to nobody, or was kept when another resource was deleted; TD011, it belongs to another resource, whatever p_adopt says.';

CREATE OR REPLACE FUNCTION tide.object_release(p_kind text, p_object text, p_cluster text, p_namespace text, p_resource text)
RETURNS boolean
LANGUAGE plpgsql VOLATILE
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM tide._check_claim(p_kind, p_object, p_cluster, p_namespace, p_resource);
    -- What keeps messages is remembered for as long as it is there.
    IF p_kind <> 'pipeline' AND tide._object_exists(p_kind, p_object) THEN
        UPDATE tide.managed_object m SET released_at = clock_timestamp()
         WHERE m.kind = p_kind AND m.object = p_object
           AND m.cluster = p_cluster AND m.namespace = p_namespace AND m.resource = p_resource
           AND m.released_at IS NULL;
    ELSE
        DELETE FROM tide.managed_object m
         WHERE m.kind = p_kind AND m.object = p_object
           AND m.cluster = p_cluster AND m.namespace = p_namespace AND m.resource = p_resource;
    END IF;
    RETURN FOUND;
END $$;

COMMENT ON FUNCTION tide.object_release(text, text, text, text, text) IS
'For the Kubernetes operator: the object belongs to this resource no more; the object itself stays. An outbox or inbox is kept for a resource of the same cluster, namespace and name; another one must adopt it. False when it did not belong to it.';

CREATE OR REPLACE FUNCTION tide.object_set_roles(p_kind text, p_object text, p_cluster text, p_namespace text, p_resource text,
                                      p_roles jsonb)
RETURNS boolean
LANGUAGE plpgsql VOLATILE
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM tide._check_claim(p_kind, p_object, p_cluster, p_namespace, p_resource);
    IF jsonb_typeof(p_roles) IS DISTINCT FROM 'object' THEN
        RAISE EXCEPTION 'p_roles of % "%" is %', p_kind, p_object, coalesce('a JSON ' || jsonb_typeof(p_roles), 'null')
            USING ERRCODE = 'invalid_parameter_value', HINT = 'It looks like {"publish": ["shop_app"]}.';
    END IF;
    UPDATE tide.managed_object m SET roles = p_roles
     WHERE m.kind = p_kind AND m.object = p_object
       AND m.cluster = p_cluster AND m.namespace = p_namespace AND m.resource = p_resource
       AND m.roles <> p_roles;
    RETURN FOUND;
END $$;

COMMENT ON FUNCTION tide.object_set_roles(text, text, text, text, text, jsonb) IS
'For the Kubernetes operator: remembers which roles have which right on the object from this resource, so that it takes back those and no others. Grants and revokes nothing. Returns whether that was changed; false also when the object does not belong to the resource.';

CREATE OR REPLACE FUNCTION tide.managed_objects(p_cluster text DEFAULT NULL)
RETURNS TABLE (kind text, object text, cluster text, namespace text, resource text, uid text, reclaim text, roles jsonb,
               claimed_at timestamptz, released_at timestamptz)
LANGUAGE sql STABLE
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT m.kind, m.object, m.cluster, m.namespace, m.resource, m.uid, m.reclaim, m.roles, m.claimed_at, m.released_at
      FROM tide.managed_object m
     WHERE p_cluster IS NULL OR m.cluster = p_cluster
     ORDER BY m.kind, m.object
$$;

COMMENT ON FUNCTION tide.managed_objects(text) IS
'What belongs to resources of Kubernetes clusters, or of one cluster. With released_at: what is kept since its resource was deleted.';
