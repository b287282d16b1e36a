"""Twenty chats in which Claude asks for the weather first: the tool loop of the SDK's guide."""

from concurrent.futures import ThreadPoolExecutor

from claude_throttle import Throttler

throttler = Throttler()

TOOLS = [
    {
        "name": "get_weather",
        "description": "The weather in a city.",
        "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
    }
]


def chat(city):
    messages = [{"role": "user", "content": f"What shall I wear in {city}?"}]
    while True:
        message = throttler.call(
            model="claude-haiku-4-5", max_tokens=100, tools=TOOLS, messages=messages
        )
        messages.append({"role": "assistant", "content": message.content})
        calls = [block for block in message.content if block.type == "tool_use"]
        if not calls:
            return message.content[0].text
        results = [
            {"type": "tool_result", "tool_use_id": call.id, "content": "Rain, 9 degrees."}
            for call in calls
        ]
        messages.append({"role": "user", "content": results})


def safely(city):
    try:
        return chat(city)
    except Exception as error:
        return f"failed: {error}"


with ThreadPoolExecutor(20) as pool:
    for answer in pool.map(safely, [f"city {number}" for number in range(20)]):
        print(answer)
