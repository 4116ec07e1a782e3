-- What is installed. The release is the crates' version; the number rises with
-- every release that changes the schema.
INSERT INTO tide.schema_version (version, release) VALUES (2, '0.2.0');
