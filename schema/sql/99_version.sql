-- What is installed. The release is the crates' version; the number rises with
-- every change of the schema.
INSERT INTO tide.schema_version (version, release) VALUES (1, '0.1.0');
