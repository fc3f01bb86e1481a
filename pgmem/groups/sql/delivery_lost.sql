-- Piece: true if all were still held, and the tokens of those that were not.
judged.ok {settled},
       ARRAY(SELECT token FROM asked WHERE NOT EXISTS (
           SELECT FROM held WHERE held.id = asked.id)),
       EXISTS (SELECT FROM {schema}.groups WHERE name = %(group)s)
