"""Answer the questions of a file with LangChain: langchain_chat.py questions.txt"""

import sys

from langchain_anthropic import ChatAnthropic

model = ChatAnthropic(model="claude-haiku-4-5", max_tokens=20)

with open(sys.argv[1]) as file:
    questions = file.read().splitlines()
answers = model.batch(questions, config={"max_concurrency": 30}, return_exceptions=True)
for answer in answers:
    print(f"failed: {answer}" if isinstance(answer, Exception) else answer.content)
