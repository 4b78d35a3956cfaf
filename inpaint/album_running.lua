-- The numbers of an album's items whose jobs workers hold: what they hold is few, however long the album. ARGV: album.

local key, numbers = 'inpaint:album:' .. ARGV[1], {}
for _, queue in ipairs(redis.call('SMEMBERS', 'rq:queues')) do
  if string.find(queue, '^rq:queue:v%d+%.bulk%.') then
    for _, execution in ipairs(redis.call('ZRANGE', 'rq:wip:' .. string.sub(queue, 10), 0, -1)) do
      local id = string.match(execution, '^[^:]+')
      local share, item = unpack(redis.call('HMGET', 'rq:job:' .. id, 'share', 'item'))
      if share == 'album:' .. ARGV[1] and item then
        local state = redis.call('LINDEX', key .. ':states', item - 1) or ''
        if string.match(state, '^queued (%S+)') == id then
          numbers[#numbers + 1] = tonumber(item)
        end
      end
    end
  end
end
return numbers
