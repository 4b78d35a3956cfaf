-- A job's accounts, put before every script that ends or begins one. All keys are those of one Redis.
-- inpaint:load (hash) counts unfinished jobs: by lane, by share (who they count against), and the
-- bytes of their uploads. A job carries what it counts for as fields of its own in RQ's hash.

local LOAD = 'inpaint:load'

local function count(field, amount)
  if redis.call('HINCRBY', LOAD, field, amount) <= 0 then
    redis.call('HDEL', LOAD, field)
  end
end

-- A job has reached its end, in the same script, and all of it is written: it counts no longer, and who
-- waits is told what RQ's record says: a JSON array of id, status, lost, started_at and its result's fields.
local function settle(id)
  local mine = redis.call('HMGET', 'rq:job:' .. id, 'lane', 'share', 'bytes', 'reply')
  if mine[1] then
    count(mine[1], -1)
    count(mine[2], -1)
    count('bytes', -tonumber(mine[3]))
  end
  if mine[4] and mine[4] ~= '' then
    local ending = redis.call('HMGET', 'rq:job:' .. id, 'status', 'lost', 'started_at')
    local last = redis.call('XREVRANGE', 'rq:results:' .. id, '+', '-', 'COUNT', 1)
    redis.call('RPUSH', mine[4], cjson.encode({id, ending, last[1] and last[1][2] or false}))
    redis.call('EXPIRE', mine[4], 60)
  end
end
